"""Where a training stands, in one file, so that it can be taken up again with the same bytes at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fairdeploy.errors import ConfigError, IntegrityError, StageError
from fairdeploy.records import write_atomic

EVERY = 100  # steps


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
    every: int = EVERY

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"checkpoint: steps between two are at least 1, not {self.every}")

    def due(self, step: int, total: int) -> bool:
        """Whether a checkpoint follows a step."""
        return step % self.every == 0 or step == total

    def write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the file, all at once."""
        header = {"identity": self.identity, "step": str(step), "facts": json.dumps(facts)}
        try:
            write_atomic(self.file, save(storable(tensors), header))
        except OSError as error:
            raise ConfigError(f"the checkpoint cannot be written: {error.strerror or error}", file=self.file) from error

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
                f"{self.file}: the checkpoint is another run's (data, options or network differ); remove it to start "
                "anew"
            )
        return step, tensors, facts


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as safetensors can hold them: in order, and each in memory of its own, also if tied."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


Checkpoints = Callable[[str], Checkpoint | None]  # of each training, by its station


def nowhere(station: str) -> None:
    """Keep no checkpoint of a training."""


def in_folder(folder: Path, identity: str, every: int = EVERY) -> Checkpoints:
    """Keep a checkpoint of each training of a run in a folder, each in a file of its own; every `EVERY` by default."""
    return lambda station: Checkpoint(folder / f"{station.replace(' ', '-')}.safetensors", identity, every)
