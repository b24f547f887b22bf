"""``fairdeploy gate``: a finished build again, with the gates of today."""

from __future__ import annotations

from fairdeploy.cli.common import BuildFolder, Common, Targets, print_result
from fairdeploy.workflow import latest, regate


def gate(build: BuildFolder = None, *, target: Targets = (), common: Common | None = None) -> int:
    """Gate a finished build again with the gates that the project holds now; no model is run."""
    common = common or Common()
    verdicts = regate(common.folder, build or latest(common.folder), target, config=common.config)
    return print_result("gate", verdicts, common)
