"""Completion scripts know the commands and their flags, and a shell can read them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from fairdeploy.cli import app, main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    names = [name for name in app if not name.startswith("-")]
    assert {"init", "build", "judge", "targets"} <= set(names)
    assert not [name for name in names if name not in script]
    assert "-target" in script
    assert "groups" in script
    if (found := shutil.which(shell)) is not None:  # bash is on every machine that runs these tests
        checked = subprocess.run([found, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_bash_completes_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = "\nCOMP_WORDS=(fairdeploy ini); COMP_CWORD=1; COMP_LINE='fairdeploy ini'; COMP_POINT=14"
    function = script.split("complete -F ")[1].split()[0] if "complete -F " in script else "_fairdeploy"
    done = subprocess.run(
        ["bash", "-c", f'{script}{ask}; {function} fairdeploy ini fairdeploy; echo "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["init"], done.stderr


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err
