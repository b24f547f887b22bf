"""Public help for people who write plug-ins, and for tests of whole builds without a device.

`FakeBackend` and `FakeDevice` stand here; ``fairdeploy.testing.contract`` (which needs pytest) has the
`BackendContract` that every backend's tests subclass.
"""

from fairdeploy.testing.fake_backend import FakeBackend
from fairdeploy.testing.fake_device import Degradation, FakeDevice
from fairdeploy.testing.networks import write_network
from fairdeploy.testing.plugins import registered

__all__ = ["Degradation", "FakeBackend", "FakeDevice", "registered", "write_network"]
