"""JSON Schema (draft 2020-12) of the files that people write: a project and a target, as editors read them.

`fairdeploy.yamlfile` is what refuses a file; with the schema an editor completes keys and underlines most mistakes.
"""

from __future__ import annotations

from typing import Any

from fairdeploy.project import Project
from fairdeploy.records import Record
from fairdeploy.target import Target

FILES: dict[str, type[Record]] = {"project": Project, "target": Target}


def head(name: str) -> dict[str, str]:
    """Return what every schema of ours begins with."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:fairdeploy:schema:{name}:1"}


def file_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a file that people write.

    Parameters
    ----------
    name : {"project", "target"}
    """
    schema = FILES[name].model_json_schema()
    if name == "target":
        _allow_extending(schema)
    return {**head(name), **schema}


def _allow_extending(schema: dict[str, Any]) -> None:
    """Let a target take what it does not say from the one that it extends."""
    schema["properties"]["extends"] = {"type": "string", "description": "Id of the target that this one starts from."}
    whole = {
        "required": [key for key in schema["required"] if key != "id"],
        "properties": {"runtime": {"required": schema["$defs"]["Runtime"].pop("required")}},
    }
    schema |= {"required": ["id"], "anyOf": [{"required": ["extends"]}, whole]}
