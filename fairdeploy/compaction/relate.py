"""The algebra of blocks: what stays together when operands meet, are mixed, or lose a dimension.

Dimensions are compared by *letters*, as in einsum: two operands that share a letter are aligned along it, and a
letter that the result lacks is contracted.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from fairdeploy.compaction.labels import Block, Ids, Labels

Letter = Hashable


@dataclass(frozen=True)
class Lettered:
    """A block whose axes are letters."""

    letters: tuple[Letter, ...]
    ids: Ids


@dataclass(frozen=True)
class Operand:
    """A tensor in an operation: its blocks, and a letter for each dimension (None where it is broadcast)."""

    blocks: tuple[Block, ...]
    letters: tuple[Letter | None, ...]

    @staticmethod
    def of(blocks: tuple[Block, ...], shape: tuple[int, ...], letters: Sequence[Letter]) -> Operand:
        """Return an operand with a letter for each dimension, counted from the last; none where it is broadcast."""
        own = letters[len(letters) - len(shape) :]
        return Operand(blocks, tuple(letter if size != 1 else None for letter, size in zip(own, shape, strict=True)))


def relate(labels: Labels, operands: Sequence[Operand], stiff: frozenset[Letter], reason: str) -> list[Lettered]:
    """Unite what meets along the same letters.

    Parameters
    ----------
    labels : Labels
    operands : sequence of Operand
    stiff : set of letters
        Along these the operation mixes everything; so do letters along which an operand has no labels.
    reason : str
        Why labels are pinned that lie along stiff letters only.

    Returns
    -------
    list of Lettered
        Blocks over disjoint letters that describe all operands.
    """
    blocks = [
        Lettered(tuple(operand.letters[dim] for dim in block.dims), block.ids)
        for operand in operands
        for block in operand.blocks
    ]
    for operand in operands:
        labelled = {operand.letters[dim] for block in operand.blocks for dim in block.dims}
        stiff = stiff.union(letter for letter in operand.letters if letter is not None and letter not in labelled)
    stiffened: dict[tuple[Letter, ...], Ids] = {}
    for block in blocks:
        if stiff.issuperset(block.letters):
            labels.unite(stiffened.setdefault(block.letters, block.ids), block.ids)
    joined: list[Lettered] = []
    for block in blocks:
        softened = mix(labels, block, stiff, reason)
        if softened is not None:
            _join(labels, joined, softened)
    return joined


def emit(labels: Labels, joined: Sequence[Lettered], letters: Sequence[Letter | None]) -> tuple[Block, ...]:
    """Return the blocks of a result with these letters; letters that it lacks are contracted."""
    blocks: list[Block] = []
    for block in joined:
        kept = tuple(letter for letter in block.letters if letter in letters)
        if kept:
            blocks.append(Block(tuple(letters.index(letter) for letter in kept), project(labels, block, kept)))
    return tuple(blocks)


def project(labels: Labels, block: Lettered, onto: tuple[Letter, ...]) -> Ids:
    """Return labels over some letters of a block that stay as long as anything along the others does.

    Over the outer letters the rest may differ from row to row; over others every row must keep the same.
    """
    if block.letters == onto:
        return block.ids
    rest = tuple(letter for letter in block.letters if letter not in onto)
    ids = block.ids.transpose([block.letters.index(letter) for letter in onto + rest])
    if not rest:
        return ids
    shape = ids.shape[: len(onto)]
    prefix = set(block.letters[: len(onto)]) == set(onto)
    return labels.rows(ids.reshape(int(np.prod(shape)), -1), product=not prefix).reshape(shape)


def mix(labels: Labels, block: Lettered, along: frozenset[Letter], reason: str) -> Lettered | None:
    """Let everything along some letters stay or go together; None when nothing but these letters is left."""
    rest = tuple(letter for letter in block.letters if letter not in along)
    if len(rest) == len(block.letters):
        return block
    if not rest:
        labels.pin(block.ids, reason)
        return None
    mixed = tuple(letter for letter in block.letters if letter in along)
    ids = block.ids.transpose([block.letters.index(letter) for letter in rest + mixed])
    flat = ids.reshape(*ids.shape[: len(rest)], -1)
    labels.unite(np.broadcast_to(flat[..., :1], flat.shape), flat)
    return Lettered(rest, flat[..., 0])


def _join(labels: Labels, joined: list[Lettered], block: Lettered) -> None:
    """Add a block, uniting it with those that share letters."""
    for other in list(joined):
        shared = tuple(letter for letter in other.letters if letter in block.letters)
        if not shared:
            continue
        if len(shared) < min(len(other.letters), len(block.letters)):
            joined.remove(other)
            other_mixed = mix(labels, other, frozenset(other.letters).difference(shared), "")
            block_mixed = mix(labels, block, frozenset(block.letters).difference(shared), "")
            assert other_mixed is not None
            assert block_mixed is not None
            joined.append(other_mixed)
            block = block_mixed
            other = other_mixed
        labels.unite(project(labels, other, shared), project(labels, block, shared))
        if len(shared) == len(block.letters):
            return
        joined.remove(other)
    joined.append(block)
