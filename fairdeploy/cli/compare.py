"""``fairdeploy compare``: builds and bundles side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fairdeploy.bundle import Bundle, load_build, load_bundle
from fairdeploy.cli.common import Common, print_json, stdout
from fairdeploy.errors import ConfigError, ExitCode
from fairdeploy.workflow import latest


def compare(
    bundles: Annotated[tuple[Path, ...], Parameter(help="Builds or bundles; the latest build by default.")] = (),
    *,
    common: Common | None = None,
) -> int:
    """Show bundles side by side: groups, flips, latency, size, precision, evidence level."""
    from fairdeploy.report.terminal import comparison_json, print_comparison

    common = common or Common()
    found = [bundle for folder in bundles or (latest(common.folder),) for bundle in _bundles(folder)]
    if common.json:
        print_json("compare", targets=comparison_json(found)["targets"])
    else:
        print_comparison(found, stdout())
    return ExitCode.DONE


def _bundles(folder: Path) -> list[Bundle]:
    if (folder / "manifest.json").is_file():
        return [load_bundle(folder)]
    if (folder / "build.json").is_file():
        return list(load_build(folder)[1])
    raise ConfigError(
        "neither a build nor a bundle: run 'fairdeploy build', or give a folder under build/", file=folder
    )
