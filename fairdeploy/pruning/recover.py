"""Fine-tuning after removal."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fairdeploy.errors import DataError, StageError
from fairdeploy.model import ModelSpec, Preprocess
from fairdeploy.project import Recover
from fairdeploy.pruning.base import StoredSplit
from fairdeploy.pruning.determinism import set_deterministic
from fairdeploy.pruning.sampling import epoch_order


def recover(
    module: nn.Module,
    train: StoredSplit,
    *,
    spec: ModelSpec,
    options: Recover,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """Fine-tune a copy: AdamW, a one-cycle rate, cross-entropy; one thread, the same bytes for the same seed.

    Parameters
    ----------
    module : Module
        Gives [n, classes] first; left as it is.
    train : StoredSplit
    spec : ModelSpec
        Inputs, preprocessing, and whether the output is logits or probabilities.
    options : Recover
        No epochs: `module` itself comes back.
    seed : int
    progress : callable, optional
        Called with the steps done and the steps in all.

    Raises
    ------
    StageError
        If the module is an exported graph, gives another number of classes, or training diverges.
    DataError
        If the split is empty, lacks an input, or has labels beyond the classes.
    """
    if options.epochs == 0:
        return module
    if isinstance(module, fx.GraphModule):
        raise StageError(
            "recover: an exported graph cannot be trained (its batch norms are frozen); see CompactModel.not_own_class "
            "for what keeps the network's own class, or set prune.recover.epochs: 0"
        )
    _check(train, spec)
    tuned = copy.deepcopy(module).train()
    with set_deterministic(seed):
        _fit(tuned, train, spec, options, np.random.default_rng(seed), progress)
    return tuned.eval()


def _fit(
    tuned: nn.Module,
    train: StoredSplit,
    spec: ModelSpec,
    options: Recover,
    generator: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> None:
    parameters = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate)
    per_epoch = max(1, len(train.rows) // options.batch_size)
    total = per_epoch * options.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=options.learning_rate, total_steps=total)
    labels = np.asarray(train.rows.labels, dtype=np.int64)
    done = 0
    for _ in range(options.epochs):
        order = epoch_order(train.rows, options.sampling, generator)
        for step in range(per_epoch):
            chosen = order[step * options.batch_size : (step + 1) * options.batch_size]
            loss = _loss(tuned, batch_of(train, chosen, spec), torch.from_numpy(labels[chosen]), spec)
            if not bool(torch.isfinite(loss)):
                raise StageError(f"recover: the loss is not finite at step {done + 1}; lower recover.learning_rate")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done += 1
            if done < total:
                schedule.step()
            if progress is not None:
                progress(done, total)


def _loss(tuned: nn.Module, batch: tuple[Tensor, ...], labels: Tensor, spec: ModelSpec) -> Tensor:
    outputs = tuned(*batch)
    first = outputs[0] if isinstance(outputs, tuple | list) else outputs
    if first.shape != (len(labels), len(spec.classes)):
        raise StageError(
            f"recover: the network gives {list(first.shape)} for {len(labels)} rows, not [rows, {len(spec.classes)}]"
        )
    if spec.output == "probabilities":
        return functional.nll_loss(first.clamp_min(torch.finfo(first.dtype).tiny).log(), labels)
    return functional.cross_entropy(first, labels)


def batch_of(
    split: StoredSplit, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], spec: ModelSpec
) -> tuple[Tensor, ...]:
    """Return the rows at some positions as the network is fed them, one float32 tensor for each input."""
    return tuple(_prepared(np.asarray(split.inputs[name][chosen]), spec.preprocess) for name in spec.inputs)


def _prepared(raw: np.ndarray[tuple[int, ...], np.dtype[np.generic]], how: Preprocess) -> Tensor:
    """Return ``(x - mean) / std`` along axis 1, red and blue swapped first for bgr."""
    values = raw.astype(np.float32)
    if how.color == "bgr":
        values = values[:, ::-1]
    if how.mean:
        shape = (1, -1) + (1,) * (values.ndim - 2)
        mean, std = np.array(how.mean, np.float32).reshape(shape), np.array(how.std, np.float32).reshape(shape)
        values = (values - mean) / std
    return torch.from_numpy(np.ascontiguousarray(values))


def _check(train: StoredSplit, spec: ModelSpec) -> None:
    rows = len(train.rows)
    if rows == 0:
        raise DataError("recover: the train split has no rows")
    for name in spec.inputs:
        if name not in train.inputs:
            raise DataError(f"recover: the train split has no input '{name}'; it has {', '.join(train.inputs)}")
        if len(train.inputs[name]) != rows:
            raise DataError(f"recover: input '{name}' has {len(train.inputs[name])} rows and the labels have {rows}")
    labels = np.asarray(train.rows.labels)
    if labels.min() < 0 or labels.max() >= len(spec.classes):
        raise DataError(
            f"recover: labels lie in [{labels.min()}, {labels.max()}], classes are 0 to {len(spec.classes) - 1}"
        )
