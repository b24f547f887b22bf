"""What is lost on a row, whether its outcome is right, and how far a network is from its teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from fairdeploy.errors import StageError
from fairdeploy.model import ModelSpec
from fairdeploy.pruning.problem import Objective

TEMPERATURE = 2.0


def classification(spec: ModelSpec, temperature: float = TEMPERATURE) -> Objective:
    """Return cross-entropy, the spec's decision rule, and distillation at a temperature."""
    return of_classes(
        len(spec.classes),
        probabilities=spec.output == "probabilities",
        threshold=spec.decision.threshold,
        temperature=temperature,
    )


def of_classes(
    classes: int, *, probabilities: bool = False, threshold: float | None = None, temperature: float = TEMPERATURE
) -> Objective:
    """Return cross-entropy, the most likely class as decision, and distillation at a temperature.

    The distance is the cross-entropy between softened class probabilities, times the squared temperature (Hinton et
    al., "Distilling the knowledge in a neural network", 2015), less the teacher's own entropy.

    Parameters
    ----------
    classes : int
        The network's first output is [n, classes].
    probabilities : bool
        Whether it holds probabilities and not logits.
    threshold : float, optional
        Of two classes the second is decided for from this probability on.
    temperature : float
    """

    def logits(outputs: Any) -> Tensor:
        first = first_output(outputs)
        if first.dim() != 2 or first.shape[1] != classes:
            raise StageError(f"recover: the network gives {list(first.shape)}, not [rows, {classes}]")
        first = first.float()
        return first.clamp_min(torch.finfo(first.dtype).tiny).log() if probabilities else first

    def right(outputs: Any, targets: Tensor) -> Tensor:
        found = logits(outputs)
        if threshold is None:
            return found.argmax(1) == targets
        return (found.softmax(1)[:, 1] >= threshold).long() == targets

    return Objective(
        loss=lambda outputs, targets: functional.cross_entropy(logits(outputs), targets.long(), reduction="none"),
        right=right,
        distance=lambda outputs, teacher: _divergence(logits(outputs), logits(teacher), temperature),
    )


def custom(loss: Callable[[Any, Any], Tensor], outcome: Callable[[Any, Any], Tensor]) -> Objective:
    """Return a user's loss and outcome; the distance from the teacher is the mean square over all outputs [n, ...]."""

    def distance(outputs: Any, teacher: Any) -> Tensor:
        pairs = zip(pytree.tree_leaves(outputs), pytree.tree_leaves(teacher), strict=True)
        squares = [
            (one - other).square() for one, other in pairs if isinstance(one, Tensor) and one.is_floating_point()
        ]
        rows = sorted({len(one) if one.dim() else 0 for one in squares})
        if len(rows) != 1 or rows[0] == 0:
            raise StageError(
                f"prune: the network gives tensors of {' and '.join(map(str, rows)) or 'no'} rows, so the distance "
                "from the teacher is not defined row by row; leave the teacher out (teacher=False), or return only "
                "tensors [rows, ...]"
            )
        return torch.stack([one.reshape(len(one), -1).mean(1) for one in squares]).mean(0)

    return Objective(
        loss=lambda outputs, targets: _each(loss(outputs, targets), "loss"),
        right=lambda outputs, targets: _each(outcome(outputs, targets), "outcome").bool(),
        distance=distance,
    )


def first_output(outputs: Any) -> Tensor:
    """Return a network's only output, or the first of several."""
    first: Tensor = outputs[0] if isinstance(outputs, tuple | list) else outputs
    return first


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    soft = (teacher / temperature).softmax(1)
    divergence = functional.kl_div((student / temperature).log_softmax(1), soft, reduction="none").sum(1)
    return divergence * temperature**2


def _each(values: Tensor, what: str) -> Tensor:
    if not isinstance(values, Tensor):
        raise StageError(
            f"prune: {what} gave {type(values).__name__}; it must give a tensor with one value for each row"
        )
    if values.dim() != 1:
        raise StageError(
            f"prune: {what} gave a tensor {list(values.shape)}; it must give one value for each row, [rows]: use "
            "reduction='none' and mean over all dimensions but the first"
        )
    return values
