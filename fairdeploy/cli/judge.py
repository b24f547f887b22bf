"""``verify``, ``gate``, ``compare``, ``report``: read what a build left; none of them needs PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from fairdeploy.bundle import Bundle, load_build, load_bundle
from fairdeploy.cli.build import MEANING
from fairdeploy.cli.common import Common, Progress, Targets, print_json, stdout
from fairdeploy.errors import ConfigError, ExitCode
from fairdeploy.gates import Verdict, worst_exit
from fairdeploy.line import Listener
from fairdeploy.workflow import latest, regate, verify_artifact

BuildFolder = Annotated[Path | None, Parameter(help="A build's folder; the project's latest by default.")]


def verify(
    *,
    artifact: Annotated[Path, Parameter(help="The file that the runtime loads: an ONNX file, an OpenVINO .xml.")],
    target: Annotated[str, Parameter(name=["--target", "-t"], help="The target that it is for: id or alias.")],
    baseline: Annotated[Path | None, Parameter(help="fp32 ONNX file of the dense network; the latest build's.")] = None,
    common: Common | None = None,
) -> int:
    """Judge an artifact that exists already, on this host, against the latest build's references."""
    common = common or Common()
    progress = Progress(common)
    listener = Listener(progress.start, progress.done, progress.count)
    verdict, evidence = verify_artifact(
        common.folder, artifact, target, baseline=baseline, config=common.config, listener=listener
    )
    return _print_verdicts("verify", [verdict], common, evidence=evidence.model_dump(mode="json"))


def gate(build: BuildFolder = None, *, target: Targets = (), common: Common | None = None) -> int:
    """Gate a finished build again with the gates that the project holds now; no model is run."""
    common = common or Common()
    verdicts = regate(common.folder, build or latest(common.folder), target, config=common.config)
    return _print_verdicts("gate", verdicts, common)


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


def _bundles(folder: Path) -> list[Bundle]:
    if (folder / "manifest.json").is_file():
        return [load_bundle(folder)]
    if (folder / "build.json").is_file():
        return load_build(folder)[1]
    raise ConfigError(
        "neither a build nor a bundle: run 'fairdeploy build', or give a folder under build/", file=folder
    )


def _print_verdicts(command: str, verdicts: list[Verdict], common: Common, **more: object) -> int:
    code = worst_exit([verdict.status for verdict in verdicts])
    if common.json:
        plain = [verdict.model_dump(mode="json") for verdict in verdicts]
        print_json(command, exit_code=int(code), verdicts=plain, **more)
        return code
    from fairdeploy.report.terminal import print_verdict

    for verdict in verdicts:
        print_verdict(verdict, stdout())
    stdout().print(Text(f"exit code {int(code)}: {MEANING[code]}"))
    return code
