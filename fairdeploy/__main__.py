"""``python -m fairdeploy`` is the ``fairdeploy`` command."""

from fairdeploy.cli import run

run()
