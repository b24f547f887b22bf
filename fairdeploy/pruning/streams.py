"""Rows in batches: of splits that lie in arrays, and of a user's own data loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.data import Rows
from fairdeploy.devices.runner import Refused, preprocess
from fairdeploy.errors import DataError
from fairdeploy.model import ModelSpec
from fairdeploy.pruning import processes
from fairdeploy.pruning.base import StoredSplit
from fairdeploy.pruning.draws import Draws
from fairdeploy.pruning.problem import Batch, Stream
from fairdeploy.pruning.sampling import epoch_order
from fairdeploy.usercode import user_errors

Raw = Mapping[str, NDArray[np.generic]]
Augment = Callable[[Raw, np.random.Generator], Raw]
Groups = Mapping[str, tuple[str, ...]]
LOOK_ROWS = 512


class StoredStream:
    """Batches of rows that lie in arrays, preprocessed by what runs on the device.

    Parameters
    ----------
    splits : sequence of StoredSplit
        Taken together.
    spec : ModelSpec
    groups : mapping of str to tuple of str
        The levels of each sensitive attribute.
    batch_size : int
    sampling : {"natural", "balanced", "once"}
        Each row once in random order; each cell of group x label equally often; each row once, in order, and no row
        left out at the end.
    augment : callable, optional
        Called with raw inputs by name [batch, ...] and a generator; returns the inputs to train on.
    seed : int
    split : str
        What they are called in messages.
    """

    def __init__(
        self,
        splits: Sequence[StoredSplit],
        spec: ModelSpec,
        groups: Groups,
        *,
        batch_size: int = LOOK_ROWS,
        sampling: Literal["natural", "balanced", "once"] = "once",
        augment: Augment | None = None,
        seed: int = 0,
        split: str = "train",
    ) -> None:
        self._splits, self._spec, self._batch_size, self._name = splits, spec, batch_size, split
        self._sampling, self._augment, self._seed = sampling, augment, seed
        self._rows = splits[0].rows if len(splits) == 1 else _together([split.rows for split in splits])
        self._labels = np.asarray(self._rows.labels, np.int64)
        self._groups = levels_of(self._rows.attributes, groups)
        self._starts = np.cumsum([0, *(len(split.rows) for split in splits)])

    @property
    def steps(self) -> int:
        """How many batches an epoch has."""
        rows = len(self._rows)
        return -(-rows // self._batch_size) if self._sampling == "once" else max(1, rows // self._batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; the same ones for the same number."""
        generator = np.random.default_rng([self._seed, number])
        order = self._order(generator)
        for step in range(self.steps):
            chosen = order[step * self._batch_size : (step + 1) * self._batch_size]
            raw = {name: self._take(name, chosen) for name in self._spec.inputs}
            if self._augment:
                with user_errors("prune.recover.augment"):
                    raw = dict(self._augment(raw, generator))
            labels = torch.from_numpy(self._labels[chosen])
            yield Batch(as_fed(self._spec, raw, self._name), labels, torch.from_numpy(self._groups[:, chosen]), labels)

    def _order(self, generator: np.random.Generator) -> NDArray[np.int64]:
        if self._sampling == "once":
            return np.arange(len(self._rows))
        return epoch_order(self._rows, self._sampling, generator)

    def _take(self, name: str, chosen: NDArray[np.int64]) -> NDArray[np.generic]:
        if len(self._splits) == 1:
            return np.asarray(self._splits[0].inputs[name][chosen])
        split = np.searchsorted(self._starts, chosen, side="right") - 1
        parts = [
            np.asarray(one.inputs[name][chosen[split == place] - start])
            for place, (one, start) in enumerate(zip(self._splits, self._starts[:-1], strict=True))
        ]
        rows = np.empty((len(chosen), *parts[0].shape[1:]), parts[0].dtype)
        for place, part in enumerate(parts):
            rows[split == place] = part
        return rows


class LoaderStream:
    """Batches of a user's own loader, any iterable of ``(inputs, targets, groups)`` or of `Batch`.

    Inputs are a tensor [n, ...] or a tuple of them; targets whatever the loss takes; groups a mapping from attribute
    to levels [n] (texts, or indices), or a tensor of indices [n] where there is one attribute. A level that is not
    declared, and -1, mean that the row's group is not known.

    Every epoch begins with the seeds of its number: torch's, NumPy's and Python's global generators, those that the
    loader and its sampler hold, and a sampler's ``set_epoch``. The training's own draws are kept apart from these.

    Parameters
    ----------
    loader : iterable
        With a length, and as many passes as are asked for, also two at a time.
    groups : mapping of str to tuple of str
    labels : callable, optional
        Turns targets into labels [n]; by default they are the labels themselves, if they are integers [n], else zeros.
    classes : int, optional
        Labels must lie in [0, classes).
    name : str
        Of the split, for messages.
    seed : int

    Raises
    ------
    DataError
        If the loader has no length or no batches, can be passed through only once at a time, or, during an epoch, gives
        what is no such batch; names the batch.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        groups: Groups,
        *,
        labels: Callable[[Any], Tensor] | None = None,
        classes: int | None = None,
        name: str = "train",
        seed: int = 0,
    ) -> None:
        self._groups, self._labels, self._classes, self._name, self._seed = groups, labels, classes, name, seed
        try:
            steps = len(loader)  # type: ignore[arg-type]
        except TypeError:  # a DataLoader over an iterable data set raises it as well
            raise DataError(
                f"prune: the {name} loader has no length; give a DataLoader over a data set with one, or a list of "
                "batches"
            ) from None
        if steps == 0:
            raise DataError(f"prune: the {name} loader has no batches")
        if isinstance(loader, Iterator) or getattr(loader, "persistent_workers", False):
            raise DataError(
                f"prune: the {name} loader can be passed through only once at a time; give a list of batches, or a "
                "DataLoader without persistent_workers"
            )
        self._loader: Any = loader
        self._draws = Draws(loader)

    @property
    def steps(self) -> int:
        """How many batches an epoch has."""
        return len(self._loader)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; the same ones for the same number."""
        sampler: Any = getattr(self._loader, "sampler", None)
        place = (number, processes.rank()) if processes.rank() else (number,)
        with self._draws.apart():
            self._draws.seed(np.random.SeedSequence([self._seed, *place]).generate_state(1)[0].item())
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(number)
            batches = iter(self._loader)
            ahead = self._draws.states()
        for step in range(self.steps):
            with self._draws.apart():
                self._draws.go_on(ahead)
                found = next(batches, None)
                ahead = self._draws.states()
            if found is None:
                raise DataError(f"prune: the {self._name} loader ended at batch {step + 1} of {self.steps}")
            yield self._checked(found if isinstance(found, Batch) else self._batch(found, step), step)

    def _where(self, step: int) -> str:
        return f"prune: batch {step + 1} of the {self._name} loader"

    def _batch(self, found: Any, step: int) -> Batch:
        where = self._where(step)
        if not isinstance(found, tuple | list) or len(found) != 3:
            raise DataError(f"{where} is {_shown(found)}; it must be (inputs, targets, groups)")
        inputs, targets, groups = found
        inputs = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
        if not inputs or not all(isinstance(part, Tensor) and part.dim() > 0 for part in inputs):
            raise DataError(f"{where} has for inputs {_shown(found[0])}; give a tensor [rows, ...], or a tuple of them")
        rows = len(inputs[0])
        if self._labels is None:
            labels = _labels(targets, rows)
        else:
            with user_errors("labels"):
                labels = self._labels(targets)
        return Batch(inputs, labels.long(), self._levels(groups, rows, where), targets)

    def _checked(self, batch: Batch, step: int) -> Batch:
        where, rows = self._where(step), len(batch.inputs[0])
        if rows == 0:
            raise DataError(f"{where} has no rows")
        if strange := [list(part.shape) for part in batch.inputs if len(part) != rows]:
            raise DataError(f"{where} has an input {strange[0]} beside one with {rows} rows; all must have as many")
        if batch.labels.shape != (rows,):
            raise DataError(f"{where} has labels {list(batch.labels.shape)} for {rows} rows")
        if batch.groups.shape != (len(self._groups), rows):
            raise DataError(
                f"{where} has groups {list(batch.groups.shape)} for {len(self._groups)} attributes and {rows} rows"
            )
        low, high = int(batch.labels.min()), int(batch.labels.max())
        if low < 0 or (self._classes is not None and high >= self._classes):
            most = (self._classes or high + 1) - 1
            raise DataError(f"{where} has the label {low if low < 0 else high}; labels lie in 0 to {most}")
        return batch

    def _levels(self, groups: Any, rows: int, where: str) -> Tensor:
        if not self._groups:
            return torch.zeros((0, rows), dtype=torch.int64)
        if isinstance(groups, Tensor):
            if groups.shape != (rows,) or len(self._groups) != 1:
                raise DataError(
                    f"{where} has groups {list(groups.shape)} for {rows} rows and the attributes "
                    f"{', '.join(self._groups)}: give a mapping from attribute to levels [rows]"
                )
            groups = {next(iter(self._groups)): groups}
        if not isinstance(groups, Mapping):
            raise DataError(f"{where} has groups {_shown(groups)}; give a mapping from attribute to levels [rows]")
        for name in self._groups:
            if name not in groups or len(groups[name]) != rows:
                raise DataError(
                    f"{where} does not say the {name} of its {rows} rows; give -1 or '' where it is not known"
                )
        return torch.stack([_indices(groups[name], levels) for name, levels in self._groups.items()])


class Pooled:
    """The batches of several streams, spread evenly over each other."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    @property
    def steps(self) -> int:
        """How many batches an epoch has."""
        return sum(stream.steps for stream in self._streams)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; the same ones for the same number."""
        turns = [((turn + 0.5) / one.steps, k) for k, one in enumerate(self._streams) for turn in range(one.steps)]
        running = [one.epoch(number) for one in self._streams]
        for _, place in sorted(turns):
            yield next(running[place])


def levels_of(attributes: Mapping[str, NDArray[np.str_]], groups: Groups) -> NDArray[np.int64]:
    """Return the index of each row's level under each attribute [attributes, n]; -1 where it is none of them."""
    rows = len(next(iter(attributes.values()))) if attributes else 0
    found = np.full((len(groups), rows), -1)
    for place, (attribute, levels) in enumerate(groups.items()):
        for index, level in enumerate(levels):
            found[place, attributes[attribute] == level] = index
    return found


def as_fed(spec: ModelSpec, raw: Raw, split: str) -> tuple[Tensor, ...]:
    """Return raw inputs as the network is fed them, preprocessed by what runs on the device.

    Raises
    ------
    DataError
        If they do not fit the spec; names the split.
    """
    try:
        inputs = preprocess(spec.model_dump(mode="json"), raw)
    except Refused as error:
        raise DataError(f"recover: the {split} split cannot be used: {error}") from error
    return tuple(torch.from_numpy(inputs[name]) for name in spec.inputs)


def _together(several: Sequence[Rows]) -> Rows:
    return Rows(
        ids=np.concatenate([rows.ids for rows in several]),
        labels=np.concatenate([rows.labels for rows in several]),
        attributes={
            name: np.concatenate([rows.attributes[name] for rows in several]) for name in several[0].attributes
        },
    )


def _labels(targets: Any, rows: int) -> Tensor:
    if isinstance(targets, Tensor) and targets.shape == (rows,) and not targets.is_floating_point():
        return targets
    return torch.zeros(rows, dtype=torch.int64)


def _shown(value: Any) -> str:
    kind = type(value).__name__
    return f"a {kind} of {len(value)}" if isinstance(value, tuple | list | dict) else f"a {kind}"


def _indices(values: Any, levels: tuple[str, ...]) -> Tensor:
    if isinstance(values, Tensor):
        return torch.where((values >= 0) & (values < len(levels)), values, -1).long()
    known = {level: index for index, level in enumerate(levels)}
    return torch.tensor([known.get(str(value), -1) for value in values])
