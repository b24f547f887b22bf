"""``fairdeploy compare``: builds and bundles side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fairdeploy.cli.common import Common, print_json, stdout
from fairdeploy.errors import ExitCode
from fairdeploy.workflow import latest


def compare(
    bundles: Annotated[tuple[Path, ...], Parameter(help="Builds or bundles; the latest build by default.")] = (),
    *,
    common: Common | None = None,
) -> int:
    """Show bundles side by side: groups, flips, latency, size, precision, evidence level."""
    from fairdeploy.report import comparison_json, load_source, print_comparison

    common = common or Common()
    found = [bundle for folder in bundles or (latest(common.folder),) for bundle in load_source(folder).bundles]
    if common.json:
        print_json("compare", targets=comparison_json(found)["targets"])
    else:
        print_comparison(found, stdout())
    return ExitCode.DONE
