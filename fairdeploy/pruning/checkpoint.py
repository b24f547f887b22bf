"""Where a training stands, in one file, so that it can be taken up again with the same bytes at the end."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairdeploy.errors import IntegrityError, StageError


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds a run every so many steps.

    Attributes
    ----------
    file : Path
        Safetensors; what is no tensor lies in its header, as JSON.
    identity : str
        Of the run: another run's checkpoint is refused.
    every : int
        Steps between two checkpoints; the last step has one as well.
    """

    file: Path
    identity: str
    every: int = 100

    def due(self, step: int, total: int) -> bool:
        """Whether a checkpoint follows a step."""
        return step % self.every == 0 or step == total

    def write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the file, all at once."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        header = {"identity": self.identity, "step": str(step), "facts": json.dumps(facts)}
        making = self.file.with_name(f".making-{self.file.name}")
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, making, header
        )
        os.replace(making, self.file)

    def read(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Return the step, tensors and facts last written; None where nothing was.

        Raises
        ------
        IntegrityError
            If the file is damaged.
        StageError
            If it is another run's.
        """
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as stream:
                header = stream.metadata()
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            step, facts, identity = int(header["step"]), json.loads(header["facts"]), header["identity"]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"{self.file}: the checkpoint cannot be read ({error}); remove it to start anew"
            ) from None
        if identity != self.identity:
            raise StageError(
                f"{self.file}: the checkpoint is another run's (data, options or network differ); remove it to start anew"
            )
        return step, tensors, facts
