"""``fairdeploy report``: what a build found, for people."""

from __future__ import annotations

from fairdeploy.cli.common import BuildFolder, Common, print_json
from fairdeploy.errors import ExitCode
from fairdeploy.workflow import latest


def report(build: BuildFolder = None, *, common: Common | None = None) -> int:
    """Write the report of a build as one offline HTML file."""
    from fairdeploy.report.html import write_html

    common = common or Common()
    page = write_html(build or latest(common.folder))
    if common.json:
        print_json("report", file=str(page))
    else:
        print(page)
    return ExitCode.DONE
