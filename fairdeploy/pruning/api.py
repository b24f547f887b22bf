"""`prune`: a user's own network, loaders and loss, from dense to small, fair and fine-tuned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairdeploy import yamlfile
from fairdeploy.bundle import LogEntry
from fairdeploy.compaction import CompactModel, compact
from fairdeploy.compaction.bake import private_copy
from fairdeploy.errors import ConfigError, DataError
from fairdeploy.project import Budget, Groups, Prune
from fairdeploy.pruning import processes
from fairdeploy.pruning.budget import Latency
from fairdeploy.pruning.checkpoint import Checkpoints, in_folder, nowhere
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.front import Measured, Option, costs_of, decide, measure
from fairdeploy.pruning.objectives import custom, first_output, of_classes
from fairdeploy.pruning.problem import Objective, Problem
from fairdeploy.pruning.stations import Stations
from fairdeploy.pruning.streams import LoaderStream, Pooled
from fairdeploy.pruning.training import Means, Precision, Progress
from fairdeploy.records import digest
from fairdeploy.usercode import user_errors

PerRow = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Smaller:
    """A pruned, compacted and fine-tuned network.

    Attributes
    ----------
    name : str
        As in ``macs-0.25``.
    level : Budget
        What it may cost.
    model : CompactModel
        The network as it is now, with its costs before and after and the proof of its compaction.
    measured : Measured
        What it gets right on the prune split.
    kept : bool
        Whether it is worth keeping: the last of the decisions says why.
    decisions : tuple of LogEntry
    """

    name: str
    level: Budget
    model: CompactModel
    measured: Measured
    kept: bool
    decisions: tuple[LogEntry, ...]

    @property
    def module(self) -> nn.Module:
        """The network, on the CPU and in evaluation mode; it can be trained on."""
        return self.model.trainable()

    def save(self, folder: str | Path) -> None:
        """Write graph, weights, compaction record and rates, for `fairdeploy.load_graph`; the first process does."""
        if processes.rank() == 0:
            self.model.save(folder)
            self.measured.save(Path(folder) / "measured.json")


@dataclass(frozen=True)
class Result:
    """What `prune` found.

    Attributes
    ----------
    dense : Measured
        The network given, on the prune split.
    teacher : Module, optional
        The network made fair, where one was wanted.
    candidates : tuple of Smaller
        One for each level of ``keep``.
    """

    dense: Measured
    teacher: nn.Module | None
    candidates: tuple[Smaller, ...]

    @property
    def front(self) -> tuple[Smaller, ...]:
        """The candidates that are worth keeping."""
        return tuple(one for one in self.candidates if one.kept)

    def save(self, folder: str | Path) -> None:
        """Write every candidate into a folder of its name."""
        for one in self.candidates:
            one.save(Path(folder) / one.name)


@torch.enable_grad()
def prune(
    module: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    train: Iterable[Any],
    prune: Iterable[Any],
    groups: Mapping[str, Sequence[str]],
    keep: Mapping[str, float | Sequence[float]],
    iterative: bool = False,
    method: str = "bilevel",
    constraints: Mapping[str, Any] | None = None,
    teacher: bool = True,
    loss: PerRow | None = None,
    outcome: PerRow | None = None,
    labels: Callable[[Any], Tensor] | None = None,
    epochs: int = 10,
    learning_rate: float = 2e-3,
    search: Mapping[str, float] | None = None,
    distillation: float = 0.5,
    recover_on: Sequence[str] = ("train",),
    round_to: int = 8,
    latency: Latency | None = None,
    precision: Precision = "fp32",
    device: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Make a network small and keep it fair: fair teacher, pruning, compaction, fine-tuning; once for each level.

    With a process group of ``torch.distributed`` up, every process calls it with loaders over its own share of the rows
    (``DistributedSampler``); all come to the same networks, and the first writes the checkpoints.

    Parameters
    ----------
    module : Module
        Dense and trained; left as it is.
    example_inputs : Tensor or tuple of Tensor [n, ...]
        One for each argument of ``forward``.
    train, prune : iterable
        Loaders with a length that give ``(inputs, targets, groups)``, see `LoaderStream`: weights learn from the first;
        channels and multipliers from the second, each of whose passes must give every row once.
    groups : mapping of str to sequence of str
        The levels of each sensitive attribute.
    keep : mapping of str to float or sequence of float
        What is kept of macs, parameters, size and latency, as in a project; lists give one candidate for each level.
    iterative : bool
        Whether each level goes on from the recovered network of the level before it, else from the dense one.
    method : str
        As in a project.
    constraints : mapping of str to float, optional
        As in a project.
    teacher : bool
        Whether the dense network is made fair first, under the constraints, and teaches.
    loss, outcome : callable, optional
        ``loss(outputs, targets)`` gives a value for each row [n], ``outcome(outputs, targets)`` whether it is as it
        should be. By default cross-entropy and the most likely class, on the first output [n, classes].
    labels : callable, optional
        Turns targets into labels [n], which rates are counted by; the targets themselves where they are integers [n],
        else there is one cell for each group.
    epochs, learning_rate : int, float
        Of making the teacher and of fine-tuning.
    search : mapping, optional
        ``epochs`` and ``learning_rate`` of the bilevel phase.
    distillation : float
        Share of the teacher in the loss.
    recover_on : sequence of {"train", "prune"}
        What the pruned network learns from.
    round_to : int
        Channels come in multiples of it.
    latency : callable, optional
        ``latency([masks, ...])`` gives the milliseconds of a network under each of them, where ``keep`` limits latency.
    precision : {"fp32", "bf16", "fp16"}
        Of the forward pass in training, by autocast.
    device : str, optional
        Where weights are trained; where the module is by default.
    threads : int, optional
        Results are the same bytes for the same number; torch's by default.
    seed : int
    checkpoint : path, optional
        A folder from which an interrupted run goes on when it is called again.
    checkpoint_every : int
        Optimiser steps between two checkpoints.
    progress : callable, optional
        Told a `Progress` after every optimiser step.

    Raises
    ------
    ConfigError
        If an argument is wrong.
    DataError
        If a loader gives what cannot be used; names the batch.
    StageError
        If the network has no channels to prune, a level is out of reach, a constraint lacks rows, or training diverges.
    """
    for name, value, least in (("seed", seed, 0), ("checkpoint_every", checkpoint_every, 1)):
        if value < least:
            raise ConfigError(f"prune: {name} must be at least {least}, not {value}")
    if not isinstance(module, nn.Module):
        raise ConfigError(f"prune: the network must be a torch.nn.Module, not {type(module).__name__}")
    recovering = {"epochs": epochs, "learning_rate": learning_rate, "distillation": distillation}
    options = _validated(
        {
            "method": method,
            "keep": keep,
            "iterative": iterative,
            "round_to": round_to,
            "teacher": teacher,
            "recover": {**recovering, "splits": list(recover_on)},
            "constraints": None if constraints is None else dict(constraints),
            **({} if search is None else {"search": dict(search)}),
        }
    )
    first = next(iter(module.parameters()), torch.empty(0))
    means = Means(str(first.device) if device is None else device, precision, threads or torch.get_num_threads())
    dense = private_copy(module).cpu().eval()
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    objective, classes = _objective(dense, inputs, loss, outcome)
    problem = _problem(train, prune, _declared(groups), objective, classes, labels, options, seed)
    assert options.keep is not None
    levels, limits = options.keep.levels, options.constraints
    rounding: dict[str, Any] = {"round_to": round_to, "latency_ms": latency}
    if options.iterative and any(level.latency is not None for level in levels):
        raise ConfigError(
            "prune: what measures latency measures the network given, and iterative levels prune others; limit macs, "
            "parameters or size, or take the levels one by one"
        )
    measured = measure(dense, problem, limits, dense)
    checkpoints: Checkpoints = nowhere
    if checkpoint is not None:
        identity = _identity(dense, problem, options, means, seed, measured)
        checkpoints = in_folder(Path(checkpoint), identity, checkpoint_every)
    stations = Stations(dense, inputs, problem, options, seed, means, checkpoints, progress)
    stations.check(latency)
    taught = stations.teach()
    source = dense if taught is None else taught.module
    said = _said("teacher", None if taught is None else taught.fair)
    found: list[tuple[Budget, CompactModel, Measured, tuple[LogEntry, ...]]] = []
    rounding["whole"] = stations.whole() if options.iterative else None
    network, above = source, None
    for level in levels:
        pruned = stations.prune(network, level, **rounding)
        model = compact(pruned.module, inputs, pruned.masks)
        if above is not None:
            model = model.counted_from(above)
        start = None if pruned.fair is None else pruned.fair.settled()
        tuned = stations.recover(model.trainable(), level, source, start)
        model.trainable().load_state_dict(tuned.module.state_dict())
        decisions = (*said, *_said(f"prune[{level.name}]", pruned.fair), *_said(f"recover[{level.name}]", tuned.fair))
        found.append((level, model, measure(tuned.module, problem, limits, dense), decisions))
        if options.iterative:
            network, above = tuned.module, model
    verdicts = decide([Option(level.name, costs_of(model.record(), level), right) for level, model, right, _ in found])
    smaller = tuple(
        Smaller(level.name, level, model, right, verdict.decision == "kept", (*decisions, verdict))
        for (level, model, right, decisions), verdict in zip(found, verdicts, strict=True)
    )
    return Result(measured, None if taught is None else taught.module, smaller)


def _validated(options: dict[str, Any]) -> Prune:
    """Return options as a project's, refused as there."""
    if options["round_to"] == "latency":
        raise ConfigError(
            "prune: round_to: latency needs a target's runtime; give a multiple, or what measures latency"
        )
    if not isinstance(options["keep"], Mapping):
        raise ConfigError('prune: keep is a mapping from cost to the share that may stay: {"macs": 0.5}')
    plain: dict[str, Any] = _plain(options)
    document = yamlfile.Document(Path(), plain, {})
    if plain["method"] == "none":
        raise ConfigError("prune: method: none prunes nothing; give another")
    if errors := yamlfile.problems(Prune, document):
        raise ConfigError(f"prune: {errors[0].message}")
    return Prune.model_validate(plain)


def _declared(groups: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    if not isinstance(groups, Mapping) or any(isinstance(levels, str) for levels in groups.values()):
        raise ConfigError('prune: groups are a mapping from attribute to its levels: {"tone": ("light", "dark")}')
    plain = {str(name): list(levels) for name, levels in groups.items()}
    if not plain:
        return {}
    if errors := yamlfile.problems(Groups, yamlfile.Document(Path(), {"attributes": plain}, {})):
        raise ConfigError(f"prune: groups: {errors[0].message}")
    return {name: tuple(levels) for name, levels in plain.items()}


def _plain(value: Any) -> Any:
    """Return mappings and sequences as dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def _objective(
    dense: nn.Module, inputs: tuple[Tensor, ...], loss: PerRow | None, outcome: PerRow | None
) -> tuple[Objective, int | None]:
    """Return what outputs are held against, and the number of classes where the network says it."""
    if (loss is None) != (outcome is None):
        raise ConfigError("prune: loss and outcome go together; give both, or neither for classification")
    with user_errors("prune: calling the network with example_inputs"), torch.no_grad():
        outputs = dense(*inputs)
    if loss is not None and outcome is not None:
        return custom(loss, outcome), None
    scores = first_output(outputs)
    if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] < 2:
        shown = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ConfigError(f"prune: the network gives {shown}, not [rows, classes]; give loss and outcome of your own")
    return of_classes(scores.shape[1]), scores.shape[1]


def _problem(
    train: Iterable[Any],
    prune: Iterable[Any],
    groups: dict[str, tuple[str, ...]],
    objective: Objective,
    classes: int | None,
    labels: Callable[[Any], Tensor] | None,
    options: Prune,
    seed: int,
) -> Problem:
    chosen = _class_labels if classes is not None and labels is None else labels

    def stream(loader: Iterable[Any], name: str, limit: int | None) -> LoaderStream:
        return LoaderStream(loader, groups, labels=chosen, classes=limit, name=name, seed=seed)

    if classes is None:
        largest = max(int(batch.labels.max()) for batch in stream(prune, "prune", None).epoch(0))
        classes = 1 + processes.largest(largest)
    learned = stream(train, "train", classes)
    watched = stream(prune, "prune", classes)
    recover = [{"train": learned, "prune": watched}[name] for name in options.recover.splits]
    return Problem(
        train=learned,
        upper=watched,
        prune=watched,
        recover=recover[0] if len(recover) == 1 else Pooled(recover),
        objective=objective,
        groups=groups,
        classes=classes,
    )


def _class_labels(targets: Any) -> Tensor:
    if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point():
        return targets
    shown = f"{targets.dtype} {list(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
    raise DataError(f"prune: targets are {shown}; they must be labels, integers [rows], or give loss and outcome")


def _identity(dense: nn.Module, problem: Problem, options: Prune, means: Means, seed: int, measured: Measured) -> str:
    """Return a digest of everything that the weights at the end depend on, as far as it can be seen before."""
    total = hashlib.sha256()
    for name, tensor in dense.state_dict().items():
        total.update(name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    batch = next(iter(problem.train.epoch(0)))
    for tensor in (*batch.inputs, batch.labels, batch.groups):
        total.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    mine = digest(
        {
            "seen": total.hexdigest(),
            "network": repr(dense),
            "steps": [problem.train.steps, problem.prune.steps],
            "prune split": measured.model_dump(mode="json"),
            "options": options.model_dump(mode="json"),
            "groups": {name: list(levels) for name, levels in problem.groups.items()},
            "means": [means.device, means.precision, means.threads, processes.count()],
            "seed": seed,
            "torch": torch.__version__,
        }
    )
    return bytes(processes.of_the_first(torch.tensor(list(bytes.fromhex(mine)))).tolist()).hex()


def _said(station: str, fair: FairTraining | None) -> tuple[LogEntry, ...]:
    return () if fair is None else fair.decisions(station)
