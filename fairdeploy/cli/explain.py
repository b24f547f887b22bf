"""``fairdeploy explain``: the rows behind one cell, and the stage at which they flipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from fairdeploy.cli.common import Common, given_devices, print_json, stdout
from fairdeploy.errors import ExitCode

SHOWN = 24


def explain(
    *cell: Annotated[
        str, Parameter(help="A gate as in the verdict, then attribute=level of its group, or 'everyone'.")
    ],
    target: Annotated[str | None, Parameter(name=["--target", "-t"], help="A target's id or alias.")] = None,
    sample: Annotated[str | None, Parameter(help="Id of a row to trace through all stages.")] = None,
    samples: Annotated[
        int | None, Parameter(validator=Number(gte=1), help="Rows to list at most; by default 24, in JSON all.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="Write a page with the rows' pictures; it stays on this machine.")
    ] = None,
    common: Common | None = None,
) -> int:
    """Show which rows flipped in a cell of the latest build, at which stage, where they pile up, and what to try.

    Without a cell the worst one is explained. Everything comes from the store; nothing is run, and nothing but
    ``--out`` is written.
    """
    from fairdeploy.explain import explain as find
    from fairdeploy.report.explanation import print_explanation, write_page

    common = common or Common()
    found = find(
        common.folder,
        cell,
        target=target,
        sample=sample,
        samples=samples if samples or common.json else SHOWN,
        config=common.config,
        devices=given_devices(),
    )
    if out is not None:
        write_page(found, out, project=common.folder)
    if common.json:
        page = {} if out is None else {"page": str(out)}
        print_json("explain", explanation=found.explanation.model_dump(mode="json"), **page)
        return ExitCode.DONE
    print_explanation(found.explanation, stdout())
    if out is not None:
        stdout().print(f"page: {out}", soft_wrap=True, markup=False)
    return ExitCode.DONE
