"""Devices: where an artifact runs. Every device runs the same runner; a model is never run any other way."""

from fairdeploy.devices.base import Device, DeviceFacts, Job, Result
from fairdeploy.devices.host import HostDevice

__all__ = ["Device", "DeviceFacts", "HostDevice", "Job", "Result"]
