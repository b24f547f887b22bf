"""Help fits the terminal that it is asked on."""

from __future__ import annotations

import pytest

from fairdeploy.cli import main


def test_help_is_as_wide_as_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    for columns in ("80", "100", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["--help"]) == 0
        widths.append(max(map(len, capsys.readouterr().out.splitlines())))
    assert widths == [80, 100, 120]
