"""How a network runs while it is trained: raw rows in, log-probabilities of the classes out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fairdeploy.devices.runner import Refused, preprocess
from fairdeploy.errors import DataError, StageError
from fairdeploy.model import ModelSpec
from fairdeploy.pruning.base import StoredSplit

Raw = Mapping[str, NDArray[np.generic]]
_ROWS = 512


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


def log_probabilities(module: nn.Module, batch: tuple[Tensor, ...], spec: ModelSpec) -> Tensor:
    """Return the log-probabilities [n, classes] of a network's first output.

    Raises
    ------
    StageError
        If it has another shape.
    """
    outputs = module(*batch)
    first: Tensor = outputs[0] if isinstance(outputs, tuple | list) else outputs
    rows = len(batch[0])
    if first.shape != (rows, len(spec.classes)):
        raise StageError(
            f"recover: the network gives {list(first.shape)} for {rows} rows, not [rows, {len(spec.classes)}]"
        )
    if spec.output == "probabilities":
        return first.clamp_min(torch.finfo(first.dtype).tiny).log()
    return functional.log_softmax(first, 1)


def predicted_right(module: nn.Module, data: StoredSplit, spec: ModelSpec, split: str) -> NDArray[np.bool_]:
    """Return for each row [n] whether the network, in evaluation mode, decides for its label."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    decided = []
    try:
        with torch.no_grad():
            for start in range(0, len(data.rows), _ROWS):
                raw = {name: np.asarray(data.inputs[name][start : start + _ROWS]) for name in spec.inputs}
                found = log_probabilities(module, as_fed(spec, raw, split), spec)
                decided.append(spec.decide(found.exp().numpy()))
    finally:
        for part, training in modes.items():
            part.training = training
    right: NDArray[np.bool_] = np.concatenate(decided) == np.asarray(data.rows.labels)
    return right
