"""`ModelSpec`: what makes predictions comparable anywhere.

A verdict holds only for the same inputs, preprocessing and decision rule, so these are one digested record
that travels with every artifact and is checked on every backend. The runner applies it (``devices/runner.py``).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fairdeploy.records import Record, digest

Task = Literal["binary-classification", "multiclass-classification"]
Dimension = Literal["batch"] | Annotated[int, Field(ge=1)]
InputName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]


class TensorSpec(Record):
    """One named input: shape with a leading ``batch``, and the dtype the network is fed."""

    shape: tuple[Dimension, ...] = Field(min_length=2)
    dtype: Literal["float32"] = "float32"

    @model_validator(mode="after")
    def _batch_comes_first(self) -> TensorSpec:
        if self.shape[0] != "batch" or "batch" in self.shape[1:]:
            raise ValueError("the first dimension, and only it, is 'batch': write shape: [batch, 3, 32, 32]")
        return self

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row, without the batch dimension."""
        return tuple(int(size) for size in self.shape[1:])


class Preprocess(Record):
    """``(x - mean) / std`` per channel (axis 1), after swapping red and blue for ``color: bgr``."""

    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()

    @model_validator(mode="after")
    def _same_length(self) -> Preprocess:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}: give one per channel")
        return self


class Decision(Record):
    """How probabilities become a predicted class: a threshold on class 1, or the largest."""

    threshold: float | None = Field(default=None, gt=0, lt=1)


class ModelSpec(Record):
    """Inputs, preprocessing, output and decision rule of a network.

    Attributes
    ----------
    task : {"binary-classification", "multiclass-classification"}
    inputs : dict of str to TensorSpec
        Named inputs, in the order of the network's arguments.
    output : {"logits", "probabilities"}
        What the network's first output [n, classes] holds.
    classes : tuple of str
        Names by index; binary tasks have two and class 1 is the positive one.
    """

    task: Task
    inputs: dict[InputName, TensorSpec] = Field(min_length=1)
    preprocess: Preprocess = Preprocess()
    output: Literal["logits", "probabilities"] = "logits"
    classes: tuple[str, ...] = ("negative", "positive")
    decision: Decision = Decision()

    @property
    def digest(self) -> str:
        """SHA-256 of the record and of the order of its inputs, which is that of the network's arguments."""
        return digest([self.model_dump(mode="json"), list(self.inputs)])

    @model_validator(mode="after")
    def _classes_fit_the_task(self) -> ModelSpec:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise ValueError("classes: give at least two different names")
        if self.task == "binary-classification":
            if len(self.classes) != 2:
                raise ValueError(f"a binary task has two classes, not {len(self.classes)}")
        elif self.decision.threshold is not None:
            raise ValueError("decision.threshold is for binary tasks; leave it out to take the largest class")
        channels = len(self.preprocess.mean)
        for name, tensor in self.inputs.items():
            if channels and tensor.row_shape[0] != channels:
                raise ValueError(
                    f"preprocess.mean has {channels} values but input '{name}' has {tensor.row_shape[0]} channels"
                )
            if self.preprocess.color == "bgr" and tensor.row_shape[0] != 3:
                raise ValueError(f"preprocess.color: bgr needs 3 channels, input '{name}' has {tensor.row_shape[0]}")
        return self

    def decide(self, probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the predicted class [n] for probabilities [n, classes]."""
        if self.decision.threshold is not None:
            return np.asarray(probabilities[:, 1] >= self.decision.threshold, dtype=np.int64)
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
