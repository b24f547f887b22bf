"""Fine-tuning under constraints: gaps close on rows that were not trained on, and what cannot be met is said."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fairdeploy.data import Rows
from fairdeploy.errors import StageError
from fairdeploy.model import ModelSpec, TensorSpec
from fairdeploy.project import Constraints, Recover
from fairdeploy.pruning import recover, set_deterministic
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.network import predicted_right

GROUPS = {"tone": ("light", "dark")}
SPEC = ModelSpec(task="binary-classification", inputs={"x": TensorSpec(shape=("batch", 4))})
OPTIONS = Recover(epochs=8, learning_rate=1e-2, batch_size=64, sampling="balanced")


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


def trained(limits: Constraints | None, **data: Any) -> tuple[nn.Module, FairTraining | None]:
    train = data.pop("train", None) or split(0)
    fair = FairTraining(limits, GROUPS, train.rows, split(1), SPEC, net()) if limits else None
    return recover(net(), train, spec=SPEC, options=OPTIONS, seed=0, fair=fair), fair


def gap(module: nn.Module) -> float:
    """The difference in true positive rate on rows that nobody has seen."""
    fresh = split(2, 20_000)
    right, rows = predicted_right(module, fresh, SPEC, "evaluate"), fresh.rows
    rates = [right[(rows.attributes["tone"] == tone) & (rows.labels == 1)].mean() for tone in GROUPS["tone"]]
    return float(max(rates) - min(rates))


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


def test_rows_of_known_groups_are_enough() -> None:
    """Half of the training rows do not say which group they belong to."""
    half = split(0, unknown=0.5)
    plain, _ = trained(None, train=half)
    tuned, _ = trained(Constraints(equal_opportunity_difference=0.1), train=half)
    assert gap(tuned) < gap(plain) - 0.1


def test_the_same_seed_gives_the_same_bytes() -> None:
    limits = Constraints(equalized_odds_difference=0.1)
    assert state(trained(limits)[0]) == state(trained(limits)[0]) != state(trained(None)[0])


def test_a_limit_that_holds_anyway_changes_nothing() -> None:
    assert state(trained(Constraints(equal_opportunity_difference=0.9))[0]) == state(
        recover(net(), split(0), spec=SPEC, options=OPTIONS, seed=0, fair=Unweighted())  # type: ignore[arg-type]
    )


class Unweighted:
    """Weights of one, in the same sum."""

    def weights(self, chosen: NDArray[np.integer]) -> NDArray[np.float64]:
        return np.ones(len(chosen))

    def look(self, module: nn.Module, step: int) -> None:
        pass


def test_what_cannot_be_met_ends_in_a_trade_off_and_says_which_two_limits_it_was() -> None:
    dense = nn.Linear(4, 2).eval()
    with torch.no_grad():  # follows the light group's direction perfectly, and so the dark group not at all
        dense.weight.copy_(torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
        dense.bias.zero_()
    fair = FairTraining(
        Constraints(equalized_odds_difference=0.01, accuracy_drop=0.001), GROUPS, split(0).rows, split(1), SPEC, dense
    )
    tuned = recover(net(), split(0), spec=SPEC, options=OPTIONS, seed=0, fair=fair)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in tuned.parameters())
    *_, last = fair.decisions("recover[x]")
    assert last.decision == "the best trade-off found is kept"
    assert "equalized_odds_difference <= 0.01" in last.reason or "accuracy_drop <= 0.001" in last.reason
    assert np.isfinite(fair.multipliers.values).all()
    assert fair.multipliers.saturated


def test_a_group_that_the_prune_split_lacks_is_named_before_anything_is_trained() -> None:
    light = split(1)
    light.rows.attributes["tone"][:] = "light"
    with pytest.raises(StageError, match="no rows in group 'dark' of tone"):
        FairTraining(Constraints(accuracy_drop=0.1), GROUPS, split(0).rows, light, SPEC, net())
