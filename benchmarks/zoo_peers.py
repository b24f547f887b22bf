"""Torch-Pruning and ONNX Runtime on one network, with no settings of its own for it."""

from __future__ import annotations

import copy
import time
import warnings
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

RATIO = 0.5
CLASSES = 1000
ONNX_BATCHES = (1, 5)
ONNX_TOLERANCE = 1e-4


def torch_pruning(model: nn.Module, example: Tensor, rows: Tensor) -> dict[str, Any]:
    """Prune half of every group's channels in a copy; say whether that and the result run, and what it equals.

    The masked model has zeros where the pruned one has no entry any more. Which entries those are is read from a second
    run, with the same random importance, on a network whose parameters hold their own positions.

    Returns
    -------
    dict
        ``prune`` and ``forward`` ("yes" or the error), ``removed`` (share of the parameters), ``groups`` (that it
        can prune one by one), ``seconds`` (CPU), and two relative differences in float64: ``difference`` to the network
        with zeros in every parameter, ``difference_to_rows`` to the one whose weights alone have zero rows, as a
        mask on weights leaves it.
    """
    found: dict[str, Any] = {"version": metadata.version("torch-pruning")}
    start = time.process_time()
    try:
        groups, pruned = _pruned(model, example)
    except Exception as error:  # a peer may raise anything
        return {**found, "prune": said(error)}
    found |= {"prune": "yes", "seconds": time.process_time() - start, "groups": groups}
    counts = [sum(p.numel() for p in one.parameters()) for one in (model, pruned)]
    found["removed"] = 1 - counts[1] / counts[0]
    try:
        with torch.no_grad():
            got = pruned.double()(rows)
    except Exception as error:
        return {**found, "forward": said(error)}
    found["forward"] = "yes"
    positions = copy.deepcopy(model).double()
    with torch.no_grad():
        for parameter in positions.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter))
    _, kept = _pruned(positions, example.double())
    survivors = {name: parameter.detach().long().flatten() for name, parameter in kept.named_parameters()}
    for key, rows_only in (("difference", False), ("difference_to_rows", True)):
        with torch.no_grad():
            want = _masked(model, survivors, rows_only).double()(rows)
        found[key] = _apart(want, got)
    return found


def _apart(want: Any, got: Any) -> float | None:
    """Return the largest relative difference between two networks' outputs, or None where shapes differ."""
    pairs = list(zip(pytree.tree_leaves(want), pytree.tree_leaves(got), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return None
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def _masked(model: nn.Module, survivors: dict[str, Tensor], rows_only: bool) -> nn.Module:
    """Return a copy with zeros where nothing survived; of `rows_only`, in whole rows of weight matrices alone."""
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in masked.named_parameters():
            stays = torch.zeros(parameter.numel(), dtype=torch.bool)
            stays[survivors[name]] = True
            stays = stays.view_as(parameter)
            if rows_only:
                stays = stays.flatten(1).any(1).view(-1, *[1] * (stays.ndim - 1)) if stays.ndim > 1 else stays | True
            parameter.mul_(stays)
    return masked


def _pruned(model: nn.Module, example: Tensor) -> tuple[int, nn.Module]:
    """Return how many groups there are, and a pruned copy."""
    from torch_pruning.pruner import BasePruner  # type: ignore[import-not-found]
    from torch_pruning.pruner.importance import RandomImportance  # type: ignore[import-not-found]

    model = copy.deepcopy(model)
    heads = [
        part for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d) and len(part.weight) == CLASSES
    ]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = BasePruner(model, example, RandomImportance(), pruning_ratio=RATIO, ignored_layers=heads)
        groups = sum(1 for _ in pruner.DG.get_all_groups(heads, pruner.root_module_types))
        pruner.step()
    return groups, model


def onnx(module: nn.Module, rows: Tensor) -> str:
    """Run a network in ONNX Runtime; "equal", or what went wrong."""
    import onnxruntime

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = torch.export.Dim("batch", min=1)
            program = torch.onnx.export(
                module, (rows[:2],), dynamo=True, opset_version=18, dynamic_shapes=({0: batch},), verbose=False
            )
        assert program is not None
        session = onnxruntime.InferenceSession(
            program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        for size in ONNX_BATCHES:
            with torch.no_grad():
                want = pytree.tree_leaves(module(rows[:size]))
            got = session.run(None, {session.get_inputs()[0].name: rows[:size].numpy()})
            apart = _apart(want, [torch.from_numpy(value) for value in got])
            if apart is None or not apart <= ONNX_TOLERANCE:
                return f"differs by {apart} at batch {size}"
    except Exception as error:  # exporters raise anything, and wrap the reason
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        return said(reason)
    return "equal"


def said(error: BaseException) -> str:
    """Return an exception in one short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
