"""Fine-tuning under constraints: gaps close on rows that were not trained on, and what cannot be met is said."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fairdeploy.data import Rows
from fairdeploy.errors import DataError, StageError
from fairdeploy.model import ModelSpec, TensorSpec
from fairdeploy.project import Budget, Constraints, Recover
from fairdeploy.pruning import (
    Bilevel,
    Problem,
    Progress,
    Schedule,
    fair_teacher,
    recover,
    set_deterministic,
    stored_problem,
)
from fairdeploy.pruning.cells import tally
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.problem import Batch

GROUPS = {"tone": ("light", "dark")}
SPEC = ModelSpec(task="binary-classification", inputs={"x": TensorSpec(shape=("batch", 4))})
OPTIONS = Recover(batch_size=64, sampling="balanced")
SCHEDULE = Schedule(epochs=8, learning_rate=1e-2)


@dataclass(frozen=True)
class Stored:
    inputs: dict[str, NDArray[Any]]
    rows: Rows


def split(seed: int, count: int = 3000, unknown: float = 0.0) -> Stored:
    """One tenth is dark, and shows its label less, and in another direction than the rest does."""
    rng = np.random.default_rng(seed)
    dark = rng.random(count) < 0.1
    labels = rng.integers(0, 2, count)
    x = rng.standard_normal((count, 4))
    sign = 2 * labels - 1
    x[:, 0] += np.where(dark, -0.3, 1.0) * sign
    x[:, 1] += np.where(dark, 0.6, 0.0) * sign
    tone = np.where(rng.random(count) < unknown, "unknown", np.where(dark, "dark", "light"))
    return Stored({"x": x.astype(np.float32)}, Rows(np.arange(count).astype(str), labels, {"tone": tone}))


def net() -> nn.Module:
    """Too small for both directions: what one group gains the other pays for."""
    with set_deterministic(1):
        return nn.Linear(4, 2).eval()


def problem(*, train: Stored | None = None, prune: Stored | None = None) -> Problem:
    splits = {"train": train or split(0), "prune": prune or split(1)}
    return stored_problem(splits, SPEC, GROUPS, options=OPTIONS, seed=0)


def trained(limits: Constraints | None, **data: Any) -> tuple[nn.Module, FairTraining | None]:
    reference = data.pop("reference", None) or net()
    progress = data.pop("progress", None)
    whole = problem(**data)
    fair = None if limits is None else FairTraining(limits, whole, reference)
    found = recover(net(), whole, SCHEDULE, seed=0, fair=fair, progress=progress)
    return found.module, found.fair


def gap(module: nn.Module) -> float:
    """The difference in true positive rate on rows that nobody has seen."""
    _, rates = tally(module, problem(prune=split(2, 20_000)))
    return abs(float(rates[1] - rates[3]))


def state(module: nn.Module) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in module.state_dict().values())).hexdigest()


def test_a_gap_closes_to_its_limit_on_rows_that_nobody_saw() -> None:
    plain, _ = trained(None)
    assert gap(plain) > 0.18
    for limit in (0.1, 0.03):
        tuned, fair = trained(Constraints(equal_opportunity_difference=limit))
        assert gap(tuned) <= limit + 0.03
        assert fair is not None
        (entry,) = fair.decisions("recover")
        assert entry.decision == f"equal_opportunity_difference <= {limit:g} holds"
        assert fair.noticed is None


def test_rows_of_known_groups_are_enough() -> None:
    """Half of the training rows do not say which group they belong to."""
    half = split(0, unknown=0.5)
    plain, _ = trained(None, train=half)
    tuned, _ = trained(Constraints(equal_opportunity_difference=0.1), train=half)
    assert gap(tuned) < gap(plain) - 0.1


def test_a_label_without_groups_leaves_room_for_limits_on_the_other() -> None:
    """Whoever is not there has no skin tone: true positive rates have groups, false positive rates do not."""

    def of_positives(found: Stored) -> Stored:
        tone = np.where(found.rows.labels == 1, found.rows.attributes["tone"], "unknown")
        return Stored(found.inputs, Rows(found.rows.ids, found.rows.labels, {"tone": tone}))

    data = {"train": of_positives(split(0)), "prune": of_positives(split(1))}
    plain, _ = trained(None, **data)
    tuned, _ = trained(Constraints(equal_opportunity_difference=0.1), **data)
    assert gap(tuned) <= 0.1 + 0.03 < gap(plain)
    with pytest.raises(StageError, match="no rows with label 0 in group 'light' of tone"):
        trained(Constraints(equalized_odds_difference=0.1), **data)


def test_rows_of_one_label_are_nothing_to_hold_limits_on() -> None:
    found = split(1)
    alike = Stored(found.inputs, Rows(found.rows.ids, np.ones_like(found.rows.labels), found.rows.attributes))
    with pytest.raises(DataError, match="every row of the prune split has the label 1: .* give rows of every class"):
        trained(Constraints(accuracy_drop=0.1), prune=alike)


def test_the_same_seed_gives_the_same_bytes() -> None:
    limits = Constraints(equalized_odds_difference=0.1)
    assert state(trained(limits)[0]) == state(trained(limits)[0]) != state(trained(None)[0])


def test_a_limit_that_holds_anyway_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    holding = trained(Constraints(equal_opportunity_difference=0.9))[0]
    monkeypatch.setattr(FairTraining, "weights", lambda self, batch: torch.ones(len(batch)))
    unweighted = trained(Constraints(equal_opportunity_difference=0.01))[0]
    assert state(holding) == state(unweighted)


def follower() -> nn.Module:
    """Follows the light group's direction perfectly, and so the dark group not at all."""
    dense = nn.Linear(4, 2).eval()
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
        dense.bias.zero_()
    return dense


def test_what_cannot_be_met_ends_in_a_trade_off_and_says_which_two_limits_it_was() -> None:
    limits = Constraints(equalized_odds_difference=0.01, accuracy_drop=0.001)
    steps: list[Progress] = []
    tuned, fair = trained(limits, reference=follower(), progress=steps.append)
    assert fair is not None
    assert all(bool(torch.isfinite(parameter).all()) for parameter in tuned.parameters())
    assert all(np.isfinite(at.loss) for at in steps)
    *_, noticed, last = fair.decisions("recover[x]")
    assert last.decision == "the best trade-off found is kept"
    assert "at the best rates that the run reached, " in last.reason
    assert "equalized_odds_difference <= 0.01" in last.reason
    assert "accuracy_drop <= 0.001" in last.reason
    assert "each limit would have to be 0." in last.reason
    assert np.isfinite(fair.multipliers.values).all()
    assert fair.multipliers.saturated

    assert fair.noticed is not None
    step, said = fair.noticed
    assert 0 < step < steps[-1].done, "while it is running"
    assert noticed.decision == f"limits were found out of reach at step {step}"
    assert noticed.reason == said
    assert "cannot press harder" in said
    told = [at.done for at in steps if said in at.violations]
    assert told[0] == step, "as soon as it is noticed"
    assert told == list(range(step, step + len(told))), "and once"
    assert len(told) < len(steps) / 8


def test_limits_that_no_network_meets_are_said_before_the_first_step() -> None:
    """Of the light half have the label, of the dark a quarter; whoever selects alike is wrong about somebody."""
    random = np.random.default_rng(0)
    labels = np.r_[np.arange(400) % 2, np.arange(400) % 4 == 0].astype(int)
    tone = np.repeat(["light", "dark"], 400)
    prune = Stored(
        {"x": random.standard_normal((800, 4)).astype(np.float32)},
        Rows(np.arange(800).astype(str), labels, {"tone": tone}),
    )
    limits = Constraints(demographic_parity_difference=0.05, worst_group_error=0.05)
    steps: list[Progress] = []
    tuned, fair = trained(limits, prune=prune, progress=steps.append)
    assert fair is not None
    said = (
        "no network could meet them: demographic_parity_difference <= 0.05 (selection rate by tone) and "
        "worst_group_error <= 0.05 (error rate by tone) exclude each other: each limit would have to be 0.033 more"
    )
    assert fair.noticed == (0, said)
    assert said in steps[0].violations
    assert said not in steps[-1].violations
    assert [entry.reason for entry in fair.decisions("recover")].count(said) == 2, "noticed, and why nothing else was"
    assert all(bool(torch.isfinite(parameter).all()) for parameter in tuned.parameters())


def test_a_run_goes_on_from_where_it_stood() -> None:
    limits = Constraints(equalized_odds_difference=0.01, accuracy_drop=0.001)
    _, fair = trained(limits, reference=follower())
    assert fair is not None
    other = FairTraining(limits, problem(), follower())
    other.restore(json.loads(json.dumps(fair.state())))
    assert other.decisions("x") == fair.decisions("x")
    assert other.words() == fair.words()
    assert other.multipliers.step(fair.rates) == pytest.approx(fair.multipliers.step(fair.rates), abs=0)
    assert other.multipliers.values.tolist() == fair.multipliers.values.tolist()


def test_a_group_that_the_prune_split_lacks_is_named_before_anything_is_trained() -> None:
    light = split(1)
    light.rows.attributes["tone"][:] = "light"
    with pytest.raises(StageError, match="no rows in group 'dark' of tone"):
        trained(Constraints(accuracy_drop=0.1), prune=light)


def test_a_teacher_that_is_fair_stays_as_it_is_and_another_is_mended() -> None:
    plain, _ = trained(None)
    same = fair_teacher(plain, problem(), Constraints(equal_opportunity_difference=0.5), SCHEDULE, seed=0)
    assert same.module is plain
    before = state(plain)
    mended = fair_teacher(plain, problem(), Constraints(equal_opportunity_difference=0.05), SCHEDULE, seed=0)
    assert gap(mended.module) < gap(plain) / 2
    assert state(plain) == before


@dataclass
class Watched:
    """Counts how often each split's rows are read."""

    stored: Stored
    name: str
    read: list[str]

    @property
    def inputs(self) -> dict[str, NDArray[Any]]:
        self.read.append(self.name)
        return self.stored.inputs

    @property
    def rows(self) -> Rows:
        return self.stored.rows


class Untouchable:
    """A split that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"'{name}' was touched")


@pytest.mark.parametrize("splits", [("train",), ("train", "prune")])
def test_training_touches_only_train_and_prune(splits: Any) -> None:
    read: list[str] = []
    given: Any = {name: Watched(split(seed), name, read) for seed, name in enumerate(("train", "prune"))}
    given |= {name: Untouchable() for name in ("tune", "calibrate", "evaluate")}
    options = OPTIONS.model_copy(update={"splits": splits})
    whole = stored_problem(given, SPEC, GROUPS, options=options, seed=0)
    limits = Constraints(equalized_odds_difference=0.05)
    schedule = Schedule(epochs=1, learning_rate=1e-2)
    teacher = fair_teacher(net(), whole, limits, schedule, seed=0).module
    example = (torch.zeros(2, 4),)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    pruner = Bilevel(schedule, limits=limits, round_to=1)
    (found,) = pruner.prune(model, example, budgets=[Budget(macs=0.5)], problem=whole, seed=0)
    recover(found.module, whole, schedule, seed=0, fair=FairTraining(limits, whole, teacher))
    assert set(read) == {"train", "prune"}

    seen: list[str] = []
    learned = {**given, "prune": Watched(split(1), "prune", seen)}
    alone = stored_problem(learned, SPEC, GROUPS, options=options, seed=0)
    seen.clear()
    recover(found.module, alone, schedule, seed=0)
    assert bool(seen) == ("prune" in splits), "without constraints the weights alone learn, and only from their splits"


def test_rows_of_unknown_groups_weigh_nothing_special() -> None:
    fair = FairTraining(Constraints(equalized_odds_difference=0.05), problem(), net())
    fair.multipliers.values[3] = 1.0  # the recall of class 0 is too low among the dark
    labels = torch.zeros(4, dtype=torch.int64)
    batch = Batch((torch.zeros(4, 4),), labels, torch.tensor([[0, 1, -1, -1]]), labels)
    light, dark, *unknown = fair.weights(batch).tolist()
    assert unknown == [light, light]
    assert dark == pytest.approx(2 * light)
    assert light + dark + sum(unknown) == pytest.approx(4)


def test_levels_that_no_row_has_are_said() -> None:
    """The train split writes its levels in another way, so that nobody's group is known there."""
    other = split(0)
    other.rows.attributes["tone"][:] = "Light"
    _, fair = trained(Constraints(equalized_odds_difference=0.1), train=other)
    assert fair is not None
    assert "no row was weighed" in [entry.decision for entry in fair.decisions("recover")]
