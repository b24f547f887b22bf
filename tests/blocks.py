"""Examples in documents: a command, or Python with a block of text after it, and what it printed."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.cli import main

BLOCK = re.compile(
    r"```(?:console\n\$ (?P<command>[^\n]+)\n|python\n(?P<code>(?:(?!```).)*)```\n\n```text\n)(?P<output>.*?)```",
    re.DOTALL,
)
UPDATE = bool(os.environ.get("FAIRDEPLOY_UPDATE"))


def commands(document: Path) -> list[str]:
    """Return the commands of a document's blocks, in order."""
    return [match["command"] for match in BLOCK.finditer(document.read_text()) if match["command"]]


def examples(document: Path) -> list[str]:
    """Return commands and Python code, in order."""
    return [match["command"] or match["code"] for match in BLOCK.finditer(document.read_text())]


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a ``fairdeploy`` command and return what it prints to stdout, without trailing blanks."""
    main(shlex.split(command)[1:])
    return _printed(capsys)


def run_python(code: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Run code among the names of what ran before it, and return what it prints."""
    exec(code, names)
    return _printed(capsys)


def _printed(capsys: pytest.CaptureFixture[str]) -> str:
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.strip("\n").splitlines()) + "\n"


def shown(document: Path, example: str, printed: str) -> str:
    """Return what a document shows for an example; with ``FAIRDEPLOY_UPDATE`` it then shows what was printed."""
    text = document.read_text()
    block = next(match for match in BLOCK.finditer(text) if example in (match["command"], match["code"]))
    if UPDATE:
        document.write_text(text[: block.start("output")] + printed.lstrip("\n") + text[block.end("output") :])
        return printed
    return block["output"]
