"""Training weights: the lower level, whatever it is that is trained and on however many processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from fairdeploy.compaction.bake import private_copy
from fairdeploy.errors import ConfigError, DataError, StageError
from fairdeploy.pruning import processes
from fairdeploy.pruning.checkpoint import Checkpoint
from fairdeploy.pruning.determinism import set_deterministic
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.problem import Batch, Objective, Stream

LOOKS = 2  # at the constraints, in an epoch
Penalty = Callable[[Batch, Tensor], Tensor]
Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Distillation:
    """A teacher, and how much of the loss is the distance from it; the rest is the loss itself."""

    teacher: nn.Module
    share: float = 0.5


class Upper(Protocol):
    """An upper level that moves while weights are trained."""

    @property
    def kept(self) -> float:
        """The share of the dense network's cost that is left."""
        ...

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
class Means:
    """What weights are trained with.

    Attributes
    ----------
    device : str
        As torch names it. Whatever is not training is done on the CPU.
    precision : {"fp32", "bf16", "fp16"}
        Of the forward pass; weights stay as they are.
    threads : int
        Results are the same bytes for the same number.

    Raises
    ------
    ConfigError
        If this machine does not have the device, or the device not the precision.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            raise ConfigError(f"device: torch knows no '{self.device}'; give cpu or cuda") from None
        if kind == "cuda":
            if not torch.cuda.is_available():
                raise ConfigError("device: torch finds no CUDA device on this machine; give cpu")
            # cuBLAS reads it once, and is not deterministic without.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if self.precision != "fp32" and self.precision not in DTYPES:
            raise ConfigError(f"precision: there is no '{self.precision}'; give fp32, {' or '.join(DTYPES)}")
        if self.precision == "fp16" and kind != "cuda":
            raise ConfigError("precision: fp16 needs a CUDA device, for its range is too small without; give bf16")
        if self.threads < 1:
            raise ConfigError(f"threads: at least 1, not {self.threads}")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast weights are trained: AdamW with a one-cycle rate.

    Attributes
    ----------
    epochs : int
    learning_rate : float
        The largest.
    means : Means
    station : str
        What is being done, for messages.
    """

    epochs: int
    learning_rate: float
    means: Means = Means()
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
    penalty: Penalty | None = None,
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
    penalty : callable, optional
        Adds to the loss, given a batch and the loss of each of its rows [n] before anything weighs them; called in the
        precision of the forward pass.
    checkpoint : Checkpoint, optional
        Where the run is kept every so many steps, and taken up again.
    progress : callable, optional

    Raises
    ------
    DataError
        If several processes have different numbers of batches.
    StageError
        If nothing can be trained, or the loss is not finite: names step and batch, and the last checkpoint stays as it
        is.
    """
    total = stream.steps * schedule.epochs
    if not processes.alike(total):
        raise DataError(
            f"{schedule.station}: the processes have different numbers of batches, this one {stream.steps}; give each "
            "as many rows, as torch's DistributedSampler does"
        )
    with set_deterministic(seed, schedule.means.threads):
        run = _Run(module, objective, schedule, total, fair, distillation, upper, penalty)
        done = run.resume(checkpoint)
        look_every = max(1, stream.steps // LOOKS)
        for epoch in range(schedule.epochs):
            if (epoch + 1) * stream.steps <= done:
                continue
            for place, batch in enumerate(stream.epoch(epoch)):
                step = epoch * stream.steps + place + 1
                if step <= done:
                    continue
                torch.manual_seed(np.random.SeedSequence([seed, processes.rank(), step]).generate_state(1)[0].item())
                if upper is not None:
                    upper.before(step, total)
                loss = run.step(batch, step, f"step {step} (batch {place + 1} of epoch {epoch + 1})")
                if fair is not None and (step % look_every == 0 or step == total):
                    processes.share_buffers(module)
                    fair.look(module, step, loss=loss, kept=None if upper is None else upper.kept)
                    module.train()
                if checkpoint is not None and checkpoint.due(step, total):
                    run.keep(checkpoint, step)
                if progress is not None:
                    violations = () if fair is None else fair.words()
                    progress(Progress(schedule.station, step, total, loss, violations))
        processes.share_buffers(module)
    module.eval()


def on_device(module: nn.Module, device: str | torch.device) -> nn.Module:
    """Return a network that is on a device: itself, or a copy."""
    wanted = torch.device(device)
    found = next((parameter.device for parameter in module.parameters()), wanted)
    there = found.type == wanted.type and wanted.index in (None, found.index)
    return module if there else private_copy(module).to(wanted)


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
        penalty: Penalty | None,
    ) -> None:
        self._penalty = penalty
        self._module, self._objective, self._schedule, self._fair = module.train(), objective, schedule, fair
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not parameters:
            raise StageError(f"{schedule.station}: the network has no parameters that can be trained; unfreeze some")
        self._device, self._precision = parameters[0].device, schedule.means.precision
        self._upper, self._share = upper, 0.0 if distillation is None else distillation.share
        self._teacher = None if distillation is None else on_device(distillation.teacher, self._device)
        self._optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate)
        self._rates = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, max_lr=schedule.learning_rate, total_steps=max(2, total)
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._precision == "fp16")
        self._total = total
        # A network is called through what averages its gradients where there are several processes.
        self._called: nn.Module = (
            DistributedDataParallel(module, static_graph=True) if processes.count() > 1 else module
        )

    def step(self, batch: Batch, step: int, where: str) -> float:
        """Take one optimiser step; return the loss."""
        batch = batch.to(self._device)
        outputs = self._outputs(self._called, batch)
        losses = self._objective.loss(outputs, batch.targets)
        if losses.shape != (len(batch),):
            raise StageError(
                f"{self._schedule.station}: the loss gives {list(losses.shape)} for {len(batch)} rows; it must give "
                "one value for each row"
            )
        added = None
        if self._penalty is not None:
            with self._cast():
                added = self._penalty(batch, losses)
        if self._teacher is not None:
            losses = (1 - self._share) * losses + self._share * self._distance(outputs, batch)
        if self._fair is not None:
            losses = losses * self._fair.weights(batch).to(losses)
        loss = losses.mean() if added is None else losses.mean() + added
        if int(processes.summed((~torch.isfinite(loss)).long())):
            here = f"{float(loss.detach()):g}" if not torch.isfinite(loss) else "not finite in another process"
            raise StageError(
                f"{self._schedule.station}: the loss is {here} at {where}; lower the learning rate, or mend the loss "
                "or the rows of that batch"
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
        if processes.rank() != 0:
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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
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
        assert self._teacher is not None
        with torch.no_grad():
            wanted = self._outputs(self._teacher, batch)
        return self._objective.distance(outputs, wanted)

    def _cast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=DTYPES.get(self._precision), enabled=self._precision != "fp32")

    def _outputs(self, network: nn.Module, batch: Batch) -> Any:
        """Return a network's outputs; losses are computed in fp32 whatever the precision."""
        if self._precision == "fp32":
            return network(*batch.inputs)
        with self._cast():
            outputs = network(*batch.inputs)
        return pytree.tree_map(lambda part: part.float() if _is_half(part) else part, outputs)


def _is_half(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dtype in DTYPES.values()


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
