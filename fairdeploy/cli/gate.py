"""``fairdeploy gate``: a finished build again with the gates of today, or anybody's bundle with an auditor's."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fairdeploy.cli.common import BuildFolder, Common, Targets, print_result
from fairdeploy.errors import ConfigError
from fairdeploy.workflow import latest, regate


def gate(
    build: BuildFolder = None,
    *,
    target: Targets = (),
    bundle: Annotated[Path | None, Parameter(help="A sealed bundle or build, without its project.")] = None,
    gates: Annotated[Path | None, Parameter(help="With --bundle: the gates file that it is held against.")] = None,
    today: Annotated[str | None, Parameter(help="Date that waivers are held against, as 2026-12-31.")] = None,
    out: Annotated[Path | None, Parameter(help="With --bundle: write the verdict to this file.")] = None,
    common: Common | None = None,
) -> int:
    """Gate a finished build again with the gates that the project holds now; no model is run.

    With --bundle and --gates: recompute every number from a bundle's tallies, check them and its verdict, and decide by
    other gates.
    """
    common = common or Common()
    day = _day(today)
    if bundle is None:
        if gates or out:
            raise ConfigError("--gates and --out go with --bundle; a project's own gates stand in its file")
        verdicts = regate(common.folder, build or latest(common.folder), target, config=common.config, today=day)
        return print_result("gate", verdicts, common)
    if build or target or gates is None:
        raise ConfigError("--bundle takes --gates and nothing of a project: fairdeploy gate --bundle DIR --gates FILE")
    from fairdeploy.audit import audit

    verdicts = audit(bundle, gates, today=day)
    if out is not None:
        if len(verdicts) > 1:
            raise ConfigError(f"{len(verdicts)} verdicts do not fit one file: give --bundle one target's folder")
        verdicts[0].save(out)
    return print_result("gate", verdicts, common)


def _day(text: str | None) -> date:
    try:
        return date.today() if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--today is {text!r}: write a date, as in 2026-12-31") from None
