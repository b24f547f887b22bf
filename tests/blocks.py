"""Console blocks of documents: a command, and what it printed."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from fairdeploy.cli import main

BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]+)\n(?P<output>.*?)```", re.DOTALL)
UPDATE = bool(os.environ.get("FAIRDEPLOY_UPDATE"))


def commands(document: Path) -> list[str]:
    """Return the commands of a document's blocks, in order."""
    return [match["command"] for match in BLOCK.finditer(document.read_text())]


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a ``fairdeploy`` command and return what it prints to stdout, without trailing blanks."""
    main(shlex.split(command)[1:])
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.strip("\n").splitlines()) + "\n"


def shown(document: Path, command: str, printed: str) -> str:
    """Return what a document shows for a command; with ``FAIRDEPLOY_UPDATE`` it then shows what was printed."""
    text = document.read_text()
    block = next(match for match in BLOCK.finditer(text) if match["command"] == command)
    if UPDATE:
        document.write_text(text[: block.start("output")] + printed.lstrip("\n") + text[block.end("output") :])
        return printed
    return block["output"]
