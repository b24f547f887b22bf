"""Fine-tuning after removal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fairdeploy.compaction.bake import private_copy
from fairdeploy.compaction.training import is_trainable
from fairdeploy.errors import DataError, StageError
from fairdeploy.model import ModelSpec
from fairdeploy.project import Recover
from fairdeploy.pruning.base import StoredSplit
from fairdeploy.pruning.determinism import set_deterministic
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.network import Raw, as_fed, log_probabilities
from fairdeploy.pruning.sampling import epoch_order
from fairdeploy.usercode import user_errors

LOOKS = 4  # at the constraints, in an epoch
Augment = Callable[[Raw, np.random.Generator], Raw]


def recover(
    module: nn.Module,
    train: StoredSplit,
    *,
    spec: ModelSpec,
    options: Recover,
    seed: int,
    augment: Augment | None = None,
    fair: FairTraining | None = None,
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
    augment : callable, optional
        Called with raw inputs by name [batch, ...] and the generator; returns the inputs to train on.
    fair : FairTraining, optional
        Weighs the rows under constraints.
    progress : callable, optional
        Called with the steps done and the steps in all.

    Raises
    ------
    StageError
        If the module is an exported graph without training mode, gives another number of classes, or training diverges.
    DataError
        If the split is empty, lacks an input, has labels beyond the classes, NaN or infinity.
    """
    if options.epochs == 0:
        return module
    if not is_trainable(module):
        raise StageError(
            "recover: an exported graph cannot be trained (its batch norms are frozen); give it what "
            "CompactModel.trainable() returns, or set prune.recover.epochs: 0"
        )
    _check(train, spec)
    tuned = private_copy(module).train()
    with set_deterministic(seed):
        _fit(tuned, train, spec, options, np.random.default_rng(seed), augment, fair, progress)
    return tuned.eval()


def _fit(
    tuned: nn.Module,
    train: StoredSplit,
    spec: ModelSpec,
    options: Recover,
    generator: np.random.Generator,
    augment: Augment | None,
    fair: FairTraining | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    parameters = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate)
    per_epoch = max(1, len(train.rows) // options.batch_size)
    total = per_epoch * options.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=options.learning_rate, total_steps=total)
    labels = np.asarray(train.rows.labels, dtype=np.int64)
    done, look_every = 0, max(1, per_epoch // LOOKS)
    for _ in range(options.epochs):
        order = epoch_order(train.rows, options.sampling, generator)
        for step in range(per_epoch):
            chosen = order[step * options.batch_size : (step + 1) * options.batch_size]
            raw: Raw = {name: np.asarray(train.inputs[name][chosen]) for name in spec.inputs}
            if augment:
                with user_errors("prune.recover.augment"):
                    raw = augment(raw, generator)
            found = log_probabilities(tuned, as_fed(spec, raw, "train"), spec)
            loss = _loss(found, torch.from_numpy(labels[chosen]), None if fair is None else fair.weights(chosen))
            if not bool(torch.isfinite(loss)):
                raise StageError(f"recover: the loss is not finite at step {done + 1}; lower recover.learning_rate")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done += 1
            if done < total:
                schedule.step()
            if fair is not None and (done % look_every == 0 or done == total):
                fair.look(tuned, done)
            if progress is not None:
                progress(done, total)


def _loss(found: Tensor, labels: Tensor, weights: NDArray[np.float64] | None) -> Tensor:
    """Return the mean cross-entropy, of weighed rows if there are weights [n]."""
    if weights is None:
        return functional.nll_loss(found, labels)
    return (functional.nll_loss(found, labels, reduction="none") * torch.from_numpy(weights).to(found.dtype)).mean()


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
