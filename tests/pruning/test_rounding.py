"""Counts at a budget: multiples, and the search by a latency that is made up so that the best answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairdeploy.compaction import ChannelGroup, Member
from fairdeploy.compaction.groups import Masks
from fairdeploy.errors import StageError
from fairdeploy.project import Budget
from fairdeploy.pruning.budget import BudgetUse, Costs, Count
from fairdeploy.pruning.counts import masks_of
from fairdeploy.pruning.rounding import round_counts

SIZES = {"a": 100, "b": 60, "c": 84}
WEIGHT = {"a": 1000, "b": 3000, "c": 2000}
GROUPS = tuple(ChannelGroup(name, size, ()) for name, size in SIZES.items())


def scores() -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(0)
    return {name: random.uniform(0.5, 1.5, size) for name, size in SIZES.items()}


def counts_of(masks: Masks) -> Mapping[str, int]:
    return {name: int(masks[name].sum()) if name in masks else size for name, size in SIZES.items()}


def macs(masks: Masks) -> int:
    return sum(WEIGHT[name] * count for name, count in counts_of(masks).items())


def use(keep: float, count: Count = macs) -> BudgetUse:
    return BudgetUse(Budget(macs=keep), Costs(count, count, count))


def in_blocks(block: int) -> object:
    """A runtime that computes whole blocks of channels."""

    def latency(several: Sequence[Masks]) -> list[float]:
        return [
            sum(WEIGHT[name] * -(-count // block) * block for name, count in counts_of(masks).items())
            for masks in several
        ]

    return latency


@pytest.mark.parametrize("multiple", [1, 8, 16])
def test_a_multiple_keeps_the_largest_fraction_within_the_budget(multiple: int) -> None:
    counts = round_counts(GROUPS, scores(), use(0.6), round_to=multiple)
    assert all(count % multiple == 0 for count in counts.values())
    assert macs(masks_of(GROUPS, scores(), counts)) <= 0.6 * macs({})


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
def test_by_latency_no_block_is_computed_in_part_and_the_budget_is_used(keep: float) -> None:
    latency = in_blocks(4)
    masks = masks_of(GROUPS, scores(), round_counts(GROUPS, scores(), use(keep), round_to=latency))
    assert 0.98 * keep * macs({}) <= macs(masks) <= keep * macs({})
    assert latency([masks])[0] == macs(masks)


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
def test_narrow_layers_may_miss_the_budget_where_that_is_worth_it(keep: float) -> None:
    latency = in_blocks(16)
    masks = masks_of(GROUPS, scores(), round_counts(GROUPS, scores(), use(keep), round_to=latency))
    assert macs(masks) <= keep * macs({})
    for multiple in (1, 4, 8, 16):
        rounded = masks_of(GROUPS, scores(), round_counts(GROUPS, scores(), use(keep), round_to=multiple))
        assert latency([masks])[0] / macs(masks) <= 1.06 * latency([rounded])[0] / macs(rounded)


def test_by_latency_is_never_slower_than_a_multiple_of_equal_cost() -> None:
    latency = in_blocks(16)
    for multiple in (1, 8, 16):
        rounded = masks_of(GROUPS, scores(), round_counts(GROUPS, scores(), use(0.6), round_to=multiple))
        keep = macs(rounded) / macs({})
        mine = masks_of(GROUPS, scores(), round_counts(GROUPS, scores(), use(keep), round_to=latency))
        assert latency([mine])[0] <= latency([rounded])[0]


def test_the_whole_network_has_the_last_word() -> None:
    """What the search found turns out to take twice as long as its layers."""

    def measured(several: Sequence[Masks]) -> list[float]:
        assert len(several) > 1
        return [macs(masks) * (2 if place == 0 else 1 + place / 100) for place, masks in enumerate(several)]

    searched = round_counts(GROUPS, scores(), use(0.8), round_to=in_blocks(4))
    chosen = round_counts(GROUPS, scores(), use(0.8), round_to=in_blocks(4), last_word=measured)
    assert chosen != searched
    masks = masks_of(GROUPS, scores(), chosen)
    assert 0.98 * 0.8 * macs({}) <= macs(masks) <= 0.8 * macs({})


NAMES = ("a", "b", "c", "d")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    weights=st.lists(st.integers(1, 50), min_size=4, max_size=4),
    widths=st.lists(st.sampled_from([0.3, 0.5, 1.0, 1.7]), min_size=4, max_size=4),
    keep=st.floats(0.05, 1),
    multiple=st.sampled_from([1, 3, 8]),
)
def test_the_budget_is_missed_by_a_step_at_most(
    sizes: list[int], weights: list[int], widths: list[float], keep: float, multiple: int
) -> None:
    """A chain of layers: each costs its channels times those before it."""
    size_of = dict(zip(NAMES, sizes, strict=False))
    groups = tuple(ChannelGroup(name, size, ()) for name, size in size_of.items())
    random = np.random.default_rng(0)
    worth = {name: random.uniform(size=size) for name, size in size_of.items()}
    relative = dict(zip(size_of, widths, strict=False))

    def chain(counts: Mapping[str, int]) -> int:
        before, total = 3, 0
        for weight, (name, size) in zip(weights, size_of.items(), strict=False):
            count = counts.get(name, size)
            total, before = total + weight * before * count, count
        return total

    def use_of(counts: Mapping[str, int]) -> float:
        return chain(counts) / (keep * chain({}))

    least = {name: min(multiple, size) for name, size in size_of.items()}
    budget = use(keep, lambda masks: chain({name: int(mask.sum()) for name, mask in masks.items()}))
    if use_of(least) > 1:
        with pytest.raises(StageError, match="cannot be reached"):
            round_counts(groups, worth, budget, round_to=multiple, widths=relative)
        return
    counts = round_counts(groups, worth, budget, round_to=multiple, widths=relative)
    assert use_of(counts) <= 1
    above = {}
    for name, size in size_of.items():
        assert counts[name] == size or counts[name] % multiple == 0
        assert counts[name] > 0
        if counts[name] < size:
            above[name] = min(size, counts[name] + multiple)
    stuck = [name for name in above if use_of({**counts, name: above[name]}) > 1]
    assert stuck or not above, "either everything is whole, or some step exceeds the budget"
    if stuck:
        scale = min(above[name] / (size_of[name] * relative[name]) for name in stuck)
        shares = {name: min(1, scale * relative[name]) * size for name, size in size_of.items()}
        for name in above.keys() - stuck:
            assert counts[name] >= shares[name] - 1e-6, "a group below its share could be raised"
        assert all(abs(counts[name] - share) <= multiple + 1e-6 for name, share in shares.items())


def test_widths_are_relative() -> None:
    for factor in (1.0, 7.0):
        widths = {"a": factor, "b": factor / 2, "c": factor / 4}
        counts = round_counts(GROUPS, scores(), use(0.3), round_to=1, widths=widths)
        shares = {name: counts[name] / size for name, size in SIZES.items()}
        assert shares["a"] == pytest.approx(2 * shares["b"], abs=0.04)
        assert shares["a"] == pytest.approx(4 * shares["c"], abs=0.04)
        assert macs(masks_of(GROUPS, scores(), counts)) > 0.99 * 0.3 * macs({})
    assert round_counts(GROUPS, scores(), use(0.3), widths={"a": 2}) == round_counts(
        GROUPS, scores(), use(0.3), widths={"a": 1, "b": 0.5, "c": 0.5}
    )


@pytest.mark.parametrize(
    ("widths", "says"),
    [({"z": 1.0}, "no prunable group 'z'; known: a, b, c"), ({"a": 0.0}, "above 0"), ({"a": float("nan")}, "above 0"),
     ({"a": float("inf")}, "above 0"), ({"a": -1.0}, "above 0")],
)  # fmt: skip
def test_senseless_widths_are_refused(widths: dict[str, float], says: str) -> None:
    with pytest.raises(StageError, match=says):
        round_counts(GROUPS, scores(), use(0.5), widths=widths)


def test_what_rounding_leaves_goes_where_it_gains_most_score_for_each_use() -> None:
    groups = tuple(ChannelGroup(name, 16, ()) for name in "abc")

    def count(masks: Masks) -> int:
        return sum((2 if name == "a" else 1) * int(masks[name].sum() if name in masks else 16) for name in "abc")

    worth = {"a": np.full(16, 3.0), "b": np.full(16, 1.0), "c": np.full(16, 2.0)}
    assert round_counts(groups, worth, use(40 / 64, count), round_to=8) == {"a": 8, "b": 8, "c": 16}
    assert round_counts(groups, worth, use(48 / 64, count), round_to=8) == {"a": 8, "b": 16, "c": 16}
    dear = {**worth, "a": np.full(16, 5.0)}
    assert round_counts(groups, dear, use(48 / 64, count), round_to=8) == {"a": 16, "b": 8, "c": 8}


def test_the_next_to_round_up_comes_before_what_is_a_little_behind() -> None:
    """The dear one is stuck; b is an eighth of a step below its share then, c not at all, but c rounds up sooner."""
    sizes = {"a": 16, "b": 44, "c": 200}
    groups = tuple(ChannelGroup(name, size, ()) for name, size in sizes.items())
    worth = {name: np.ones(size) for name, size in sizes.items()}

    def count(masks: Masks) -> int:
        left = {name: int(masks[name].sum()) if masks else size for name, size in sizes.items()}
        return 20 * left["a"] + left["b"] + left["c"]

    assert round_counts(groups, worth, use(352 / 564, count), round_to=8) == {"a": 8, "b": 32, "c": 160}


def test_the_whole_network_is_its_own_budget() -> None:
    groups = tuple(ChannelGroup(name, size, ()) for name, size in (("a", 18), ("b", 5)))
    worth = {"a": np.ones(18), "b": np.ones(5)}

    def count(masks: Masks) -> int:
        return sum(int(mask.sum()) for mask in masks.values()) if masks else 23

    assert round_counts(groups, worth, use(1.0, count), round_to=8) == {"a": 18, "b": 5}
    assert round_counts(groups, worth, use(22 / 23, count), round_to=8) == {"a": 16, "b": 5}


def test_relative_widths_go_with_latency() -> None:
    counts = round_counts(GROUPS, scores(), use(0.4), round_to=in_blocks(4), widths={"a": 2.0})
    assert counts["a"] / SIZES["a"] > 1.3 * max(counts["b"] / SIZES["b"], counts["c"] / SIZES["c"])


def test_a_latency_without_steps_leaves_the_fraction_alone() -> None:
    def even(several: Sequence[Masks]) -> list[float]:
        return [float(macs(masks)) for masks in several]

    counts = round_counts(GROUPS, scores(), use(0.5), round_to=even)
    assert all(abs(counts[name] / size - 0.5) <= 0.15 for name, size in SIZES.items())


def test_the_channels_of_highest_score_stay_and_ties_go_by_position() -> None:
    group = (ChannelGroup("a", 5, ()),)
    masks = masks_of(group, {"a": np.array([1.0, 3.0, 1.0, 2.0, 1.0])}, {"a": 3})
    assert masks["a"].tolist() == [True, True, False, True, False]


def test_joint_channels_keep_equally_many_of_each_row() -> None:
    heads = (ChannelGroup("heads", 24, (), shape=(3, 8)),)
    values = {"heads": np.random.default_rng(0).uniform(size=24)}
    mask = masks_of(heads, values, {"heads": 12})["heads"].reshape(3, 8)
    assert mask.sum(1).tolist() == [4, 4, 4]
    assert not (mask == mask[0]).all()
    counts = round_counts(heads, values, use(0.6, lambda m: int(m["heads"].sum()) if m else 24), round_to=4)
    assert counts == {"heads": 12}
    alike = (ChannelGroup("heads", 24, (), shape=(3, 8), same_columns=True),)
    mask = masks_of(alike, values, {"heads": 12})["heads"].reshape(3, 8)
    assert (mask == mask[0]).all()


def test_whole_heads_are_not_rounded_to_multiples() -> None:
    indices = tuple(range(24))
    owners = tuple(index // 8 for index in indices)
    heads = (ChannelGroup("heads", 3, (Member("weight", 0, indices, owners),)),)
    counts = round_counts(
        heads, {"heads": np.ones(3)}, use(0.7, lambda m: int(m["heads"].sum()) if m else 3), round_to=8
    )
    assert counts == {"heads": 2}


def test_pinned_groups_are_left_out() -> None:
    groups = (*GROUPS, ChannelGroup("output", 10, (), "output of the network"))
    assert set(round_counts(groups, scores(), use(0.5), round_to=8)) == set(SIZES)


def test_a_budget_out_of_reach_says_the_least() -> None:
    with pytest.raises(StageError, match=r"0\.01 cannot be reached.*multiples of 16.*the least is 0\.\d+"):
        round_counts(GROUPS, scores(), use(0.01), round_to=16)
    with pytest.raises(StageError, match=r"cannot be reached"):
        round_counts(GROUPS, scores(), use(0.001), round_to=in_blocks(8))


@pytest.mark.parametrize(("keep", "round_to"), [(0.0, 8), (1.1, 8), (float("nan"), 8), (0.5, 0), (0.5, -8)])
def test_senseless_arguments_are_refused(keep: float, round_to: int) -> None:
    with pytest.raises(StageError, match="must be"):
        round_counts(GROUPS, scores(), use(keep), round_to=round_to)
