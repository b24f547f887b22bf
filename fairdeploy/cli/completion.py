"""``fairdeploy completion``: the script that completes commands and flags in a shell."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from fairdeploy.errors import ExitCode

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: Annotated[Shell, Parameter(help="The shell that it is for.")]) -> int:
    """Print a completion script.

    bash: fairdeploy completion bash > ~/.local/share/bash-completion/completions/fairdeploy

    zsh: fairdeploy completion zsh > "${fpath[1]}/_fairdeploy"

    fish: fairdeploy completion fish > ~/.config/fish/completions/fairdeploy.fish
    """
    from fairdeploy.cli import app

    print(app.generate_completion(shell=shell))
    return ExitCode.DONE
