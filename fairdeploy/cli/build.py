"""``fairdeploy build``: the main job."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from fairdeploy.cli.common import MEANING, Common, Progress, Targets, given_devices, print_json, stderr, stdout


def build(
    *,
    target: Targets = (),
    no_cache: Annotated[bool, Parameter(name="--no-cache", negative="", help="Run every station again.")] = False,
    common: Common | None = None,
) -> int:
    """Prune, compact, recover, export; then per target calibrate, compile, run, judge, gate, seal; and report."""
    from fairdeploy.line import Listener
    from fairdeploy.report import Source, print_verdicts, write_html
    from fairdeploy.workflow import Build
    from fairdeploy.workflow import build as run

    common = common or Common()
    progress = Progress(common)
    listener = Listener(progress.start, progress.done, progress.count)
    result: Build = run(
        common.folder,
        target,
        config=common.config,
        devices=given_devices(),
        fresh=no_cache,
        listener=listener,
    )
    page = write_html(result.folder, flags=common.config_flag)
    code = result.exit_code
    if not common.quiet:
        ran = [time for time in result.times if not time.cached]
        kept = len(result.times) - len(ran)
        words = f"{len(ran)} stations ran, {kept} came from the store"
        stderr().print(Text(words if ran else "nothing changed: every station came from the store"))
    if common.json:
        print_json(
            "build",
            exit_code=int(code),
            build=result.record.model_dump(mode="json"),
            verdicts=[bundle.verdict.model_dump(mode="json") for bundle in result.bundles],
            report=str(page),
            stations=[time.model_dump(mode="json") for time in result.times],
        )
        return code
    console = stdout()
    print_verdicts(Source(result.bundles, result.record), console, flags=common.flags)
    console.print(Text(f"report: {page}"), soft_wrap=True)
    console.print(Text(f"exit code {int(code)}: {MEANING[code]}"))
    return code
