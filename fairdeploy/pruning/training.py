"""Training weights: the lower level, whatever it is that is trained and on however many processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fairdeploy.errors import StageError
from fairdeploy.pruning.checkpoint import Checkpoint
from fairdeploy.pruning.determinism import set_deterministic
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.problem import Batch, Objective, Stream

LOOKS = 2  # at the constraints, in an epoch
Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Distillation:
    """A teacher, and how much of the loss is the distance from it; the rest is the loss itself."""

    teacher: nn.Module
    share: float = 0.5


class Upper(Protocol):
    """An upper level that moves while weights are trained."""

    def before(self, step: int, total: int) -> None:
        """Move, before a step of the weights."""
        ...

    def state(self) -> dict[str, Any]:
        """Return where it stands, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes
    ----------
    station : str
    done, total : int
        Optimiser steps.
    loss : float
    violations : tuple of str
        What the last look at the constraints found, limit by limit.
    """

    station: str
    done: int
    total: int
    loss: float
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast weights are trained: AdamW with a one-cycle rate.

    Attributes
    ----------
    epochs : int
    learning_rate : float
        The largest.
    precision : {"fp32", "bf16", "fp16"}
        Of the forward pass; weights stay as they are.
    threads : int
        Results are the same bytes for the same number.
    station : str
        What is being done, for messages.
    """

    epochs: int
    learning_rate: float
    precision: Precision = "fp32"
    threads: int = 1
    station: str = "recover"


def fit(
    module: nn.Module,
    stream: Stream,
    objective: Objective,
    schedule: Schedule,
    *,
    seed: int,
    fair: FairTraining | None = None,
    distillation: Distillation | None = None,
    upper: Upper | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Train a module's weights in place; the same bytes for the same seed and threads.

    Where a process group of ``torch.distributed`` is up, gradients are averaged over its processes, each of which
    brings a stream of its own.

    Parameters
    ----------
    module : Module
        On the device that it shall be trained on; left in evaluation mode.
    stream : Stream
    objective : Objective
    schedule : Schedule
    seed : int
    fair : FairTraining, optional
        Weighs the rows under constraints.
    distillation : Distillation, optional
    upper : Upper, optional
        Moves before every step.
    checkpoint : Checkpoint, optional
        Where the run is kept every so many steps, and taken up again.
    progress : callable, optional

    Raises
    ------
    StageError
        If the loss is not finite: names step and batch, and the last checkpoint stays as it is.
    """
    total = stream.steps * schedule.epochs
    with set_deterministic(seed, schedule.threads):
        run = _Run(module, objective, schedule, total, fair, distillation, upper)
        done = run.resume(checkpoint)
        look_every = max(1, stream.steps // LOOKS)
        for epoch in range(schedule.epochs):
            if (epoch + 1) * stream.steps <= done:
                continue
            for place, batch in enumerate(stream.epoch(epoch)):
                step = epoch * stream.steps + place + 1
                if step <= done:
                    continue
                if upper is not None:
                    upper.before(step, total)
                torch.manual_seed(np.random.SeedSequence([seed, _rank(), step]).generate_state(1)[0].item())
                loss = run.step(batch, step, f"step {step} (batch {place + 1} of epoch {epoch + 1})")
                if fair is not None and (step % look_every == 0 or step == total):
                    fair.look(module, step)
                    module.train()
                if checkpoint is not None and checkpoint.due(step, total):
                    run.keep(checkpoint, step)
                if progress is not None:
                    violations = () if fair is None else fair.words()
                    progress(Progress(schedule.station, step, total, loss, violations))
    module.eval()


class _Run:
    """One training: a module, its optimiser, and where it stands."""

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        schedule: Schedule,
        total: int,
        fair: FairTraining | None,
        distillation: Distillation | None,
        upper: Upper | None,
    ) -> None:
        self._module, self._objective, self._schedule, self._fair = module.train(), objective, schedule, fair
        self._distillation, self._upper = distillation, upper
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._device = parameters[0].device
        self._optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate)
        self._rates = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, max_lr=schedule.learning_rate, total_steps=max(2, total)
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=schedule.precision == "fp16")
        self._total = total
        # A network is called through what averages its gradients where there are several processes.
        self._called: nn.Module = DistributedDataParallel(module) if _processes() > 1 else module

    def step(self, batch: Batch, step: int, where: str) -> float:
        """Take one optimiser step; return the loss."""
        batch = batch.to(self._device)
        with self._autocast():
            outputs = self._called(*batch.inputs)
        losses = self._objective.loss(outputs, batch.targets)
        if self._distillation is not None:
            share = self._distillation.share
            losses = (1 - share) * losses + share * self._distance(outputs, batch)
        if self._fair is not None:
            losses = losses * self._fair.weights(batch).to(losses)
        loss = losses.mean()
        if not bool(torch.isfinite(loss)):
            raise StageError(
                f"{self._schedule.station}: the loss is {float(loss):g} at {where}; lower the "
                "learning rate, or mend the loss or the rows of that batch"
            )
        self._optimiser.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if step < self._total:
            self._rates.step()
        return float(loss.detach())

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Write a checkpoint; one process does."""
        if _rank() != 0:
            return
        tensors = {f"module.{name}": tensor for name, tensor in self._module.state_dict().items()}
        for place, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{place}.{name}": tensor for name, tensor in state.items()}
        facts = {
            "scaler": self._scaler.state_dict(),
            "fair": None if self._fair is None else self._fair.state(),
            "upper": None if self._upper is None else self._upper.state(),
        }
        checkpoint.write(step, tensors, facts)

    def resume(self, checkpoint: Checkpoint | None) -> int:
        """Take up the run where its checkpoint left it; return the steps done."""
        found = None if checkpoint is None else checkpoint.read()
        if found is None:
            return 0
        step, tensors, facts = found
        self._module.load_state_dict(_below("module.", tensors))
        held = self._optimiser.state_dict()
        for name, tensor in _below("optimiser.", tensors).items():
            place, _, key = name.partition(".")
            held["state"].setdefault(int(place), {})[key] = tensor
        self._optimiser.load_state_dict(held)
        for _ in range(min(step, self._total - 1)):
            self._rates.step()
        if facts["scaler"]:
            self._scaler.load_state_dict(facts["scaler"])
        if self._fair is not None:
            self._fair.restore(facts["fair"])
        if self._upper is not None:
            self._upper.restore(facts["upper"])
        return step

    def _distance(self, outputs: Any, batch: Batch) -> Tensor:
        assert self._distillation is not None
        with torch.no_grad(), self._autocast():
            wanted = self._distillation.teacher(*batch.inputs)
        return self._objective.distance(outputs, wanted)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._schedule.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=DTYPES[self._schedule.precision])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
