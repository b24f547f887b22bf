"""``fairdeploy schema``: the JSON Schema of what people write and of what fairdeploy writes."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from fairdeploy.errors import ExitCode


def schema(
    name: Annotated[str, Parameter(help="project, target; build, evidence, gates, manifest, report, verdict ...")],
) -> int:
    """Print the JSON Schema (draft 2020-12) of a project or target file, or of a record that fairdeploy writes."""
    from fairdeploy.report.document import json_schema

    print(json.dumps(json_schema(name), indent=1, ensure_ascii=False))
    return ExitCode.DONE
