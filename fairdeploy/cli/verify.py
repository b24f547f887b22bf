"""``fairdeploy verify``: any artifact, on this host, against a build's references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fairdeploy.cli.common import Common, Progress, print_result
from fairdeploy.line import Listener
from fairdeploy.workflow import verify_artifact


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
    return print_result("verify", [verdict], common, evidence=evidence.model_dump(mode="json"))
