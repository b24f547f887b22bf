"""The check that compaction never skips: the same outputs in float64, on outputs that do depend on the input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fairdeploy.compaction.precision import InDouble, double_by_default, to_double
from fairdeploy.compaction.trace import check_example_inputs, rows_of
from fairdeploy.errors import CompactionError

TOLERANCE = 1e-9
LEAST_SENSITIVITY = 1e-6
BATCH_SIZES = (1, 5)
_SEED = 20240229


@dataclass(frozen=True)
class Proof:
    """Two networks gave the same outputs.

    Attributes
    ----------
    max_difference : float
        Largest absolute difference, relative to the reference's largest absolute output.
    sensitivity : float
        Change of an output when another row is fed, relative to the same; the least of the outputs that change.
    batch_sizes : tuple of int
    dtype : str
    still_outputs : tuple of int
        Outputs, counted from 0, that did not change with the rows: their equality proves nothing.
    """

    max_difference: float
    sensitivity: float
    batch_sizes: tuple[int, ...]
    dtype: str
    still_outputs: tuple[int, ...] = ()


def check_inputs_for(example_inputs: tuple[Tensor, ...], given: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """Return rows to check on: those given, or standard normal ones in the shape of the examples.

    Integer inputs cannot be drawn; the examples' numbers are shuffled.
    """
    check_example_inputs(example_inputs)
    if given is not None:
        check_example_inputs(given)
        kinds = [[(v.shape[1:], v.is_floating_point()) for v in values] for values in (given, example_inputs)]
        if kinds[0] != kinds[1]:
            raise CompactionError("check_inputs: rows need the shape and kind of number of the example inputs' rows")
        return tuple(to_double(value) for value in given)
    generator = torch.Generator().manual_seed(_SEED)
    return tuple(
        torch.randn((max(BATCH_SIZES), *value.shape[1:]), generator=generator, dtype=torch.float64)
        if value.is_floating_point()
        else _shuffled(rows_of(value, max(BATCH_SIZES)), generator)
        for value in example_inputs
    )


def _shuffled(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return the same numbers in other places, so that rows and places differ."""
    return value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)


@dataclass(frozen=True)
class Expected:
    """What a network gives in float64, at each batch size."""

    inputs: list[tuple[Tensor, ...]]
    outputs: list[list[Tensor]]
    sensitivity: float
    still_outputs: tuple[int, ...] = ()
    made_double: bool = False

    @staticmethod
    def of(reference: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Expected:
        """Run the reference.

        Parameters
        ----------
        reference : callable
            Network in float64 and evaluation mode.
        inputs : tuple of Tensor [n, ...]
            Rows to feed, from the start again when there are fewer than a batch.

        Raises
        ------
        CompactionError
            If its outputs are not finite, or do not depend on the inputs.
        """
        batches = [tuple(rows_of(value, size) for value in inputs) for size in BATCH_SIZES]
        other = tuple(rows_of(_moved(value), BATCH_SIZES[-1]) for value in inputs)
        made_double = False
        try:
            outputs = [outputs_of(reference, batch) for batch in batches]
        except Exception:  # often a tensor that the forward pass makes in the default dtype
            made_double = True
            try:
                outputs = [outputs_of(reference, batch, made_double=True) for batch in batches]
            except Exception as error:  # the user's code runs: any exception may come
                raise CompactionError(f"the network does not run on its example inputs: {error}") from error
        if not all(bool(torch.isfinite(output).all()) for found in outputs for output in found):
            raise CompactionError("the masked network's outputs are not finite, so nothing can be compared")
        moved = zip(outputs[-1], outputs_of(reference, other, made_double=made_double), strict=True)
        changes = [_largest(want - elsewhere) / _scale(want) for want, elsewhere in moved]
        still = tuple(place for place, change in enumerate(changes) if change < LEAST_SENSITIVITY)
        lively = [change for change in changes if change >= LEAST_SENSITIVITY]
        return Expected(batches, outputs, min(lively) if lively else max(changes, default=0.0), still, made_double)

    def prove(self, candidate: Callable[..., Any]) -> Proof:
        """Compare a network in float64 and evaluation mode.

        Raises
        ------
        CompactionError
            If its outputs differ by more than `TOLERANCE`, or if equality says nothing.
        """
        worst = 0.0
        for batch, expected in zip(self.inputs, self.outputs, strict=True):
            found = outputs_of(candidate, batch, made_double=self.made_double)
            if [value.shape for value in expected] != [value.shape for value in found]:
                raise CompactionError("the compacted network's outputs have other shapes than the masked network's")
            for want, got in zip(expected, found, strict=True):
                if not bool(torch.isfinite(got).all()):
                    raise CompactionError(
                        "the compacted network's outputs differ from the masked network's: not finite"
                    )
                worst = max(worst, _largest(want - got) / _scale(want))
        if not worst <= TOLERANCE:
            raise CompactionError(
                f"the compacted network's outputs differ from the masked network's by {worst:.1e} (relative, float64; "
                f"at most {TOLERANCE:.0e} is allowed), so it is refused"
            )
        if self.sensitivity < LEAST_SENSITIVITY:
            raise CompactionError(
                f"the masked network's outputs hardly depend on the inputs (relative change {self.sensitivity:.1e}), "
                "so equal outputs prove nothing: the masks cut the network through, or other check_inputs are needed"
            )
        return Proof(worst, self.sensitivity, BATCH_SIZES, "float64", self.still_outputs)


def prove(reference: Callable[..., Any], candidate: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Proof:
    """Compare two networks in float64 at two batch sizes; see `Expected`."""
    return Expected.of(reference, inputs).prove(candidate)


def outputs_of(network: Callable[..., Any], inputs: tuple[Tensor, ...], *, made_double: bool = False) -> list[Tensor]:
    """Return all tensors that a network gives, in a fixed order, as float64.

    With `made_double`, tensors that it makes without saying a dtype are float64 too.
    """
    default = double_by_default() if made_double else nullcontext()
    with torch.no_grad(), default, InDouble():  # type: ignore[no-untyped-call]
        leaves = pytree.tree_leaves(network(*inputs))
    tensors = [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]
    return [(torch.view_as_real(t) if t.is_complex() else t).double() for t in tensors]


def _moved(value: Tensor) -> Tensor:
    """Return other rows: each takes the next one's place; floating ones get noise, so that a single row moves too."""
    if not value.is_floating_point():
        return value.roll(-1, 0)
    scale = float(value.std()) if value.numel() > 1 else 1.0
    generator = torch.Generator().manual_seed(_SEED + 1)
    noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return value.roll(-1, 0) + 0.1 * (scale or 1.0) * noise


def _scale(values: Tensor) -> float:
    return _largest(values) or 1.0


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else 0.0
