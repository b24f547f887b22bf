"""``prune:`` of a project: what goes together, and what is refused where the file is read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fairdeploy.errors import StageError
from fairdeploy.project import Project, Prune
from fairdeploy.pruning import Bilevel, ByScore, make_pruner
from fairdeploy.pruning.scored import SCORES

KEEP = {"macs": [0.5, 0.25]}
LIMITS = {"equalized_odds_difference": 0.05, "accuracy_drop": 0.01}


def prune(**given: Any) -> Prune:
    return Prune.model_validate(given)


def project(**given: Any) -> Project:
    return Project.model_validate(
        {
            "version": 1,
            "name": "kiosk",
            "task": "binary-classification",
            "model": {"import": "m:net", "weights": "w.safetensors", "inputs": {"x": {"shape": ["batch", 4]}}},
            "data": {"import": "m:data"},
            "groups": {"attributes": {"tone": ["light", "dark"], "sex": ["f", "m"]}},
            "gates": {"accuracy": {"min": 0.9}},
            "targets": ["cpu"],
            "prune": given,
        }
    )


def test_bilevel_takes_constraints_and_a_search() -> None:
    options = prune(
        method="bilevel", keep=KEEP, search={"epochs": 3}, recover={"epochs": 2},
        constraints={**LIMITS, "attributes": ["tone", "sex"], "intersections": True},
    )  # fmt: skip
    made = make_pruner(options)
    assert isinstance(made, Bilevel)
    assert made.schedule.epochs == 3
    assert made.limits == options.constraints
    assert made.limits is not None
    assert made.limits.limits == LIMITS
    assert options.has_teacher
    assert [level.name for level in options.keep.levels] == ["macs-0.5", "macs-0.25"]  # type: ignore[union-attr]


@pytest.mark.parametrize("method", SCORES)
def test_every_score_is_a_method(method: str) -> None:
    made = make_pruner(prune(method=method, keep=KEEP))
    assert isinstance(made, ByScore)
    assert made.name == method


def test_a_teacher_is_for_constraints_and_can_be_left_out() -> None:
    assert not prune(method="magnitude", keep=KEEP, recover={"epochs": 2}).has_teacher
    constrained = {"method": "magnitude", "keep": KEEP, "recover": {"epochs": 2}, "constraints": LIMITS}
    assert prune(**constrained).has_teacher
    assert not prune(**constrained, teacher=False).has_teacher


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "bilevle", "keep": KEEP}, "method"),
        ({"method": "bilevel"}, "give 'keep' with a pruning method"),
        ({"keep": KEEP}, "leave it out with method: none"),
        ({"method": "magnitude", "keep": KEEP, "search": {"epochs": 2}}, "search is for method: bilevel"),
        ({"method": "bilevel", "keep": KEEP, "search": {"epochs": 0}}, "search.epochs"),
        ({"method": "bilevel", "keep": KEEP, "constraints": LIMITS}, "give recover.epochs"),
        ({"recover": {"epochs": 2}, "constraints": LIMITS}, "constraints are met by fine-tuning what was pruned"),
        ({"method": "bilevel", "keep": KEEP, "recover": {"distillation": 1.0}}, "distillation"),
        ({"method": "bilevel", "keep": KEEP, "recover": {"splits": ["tune"]}}, "splits"),
        ({"method": "bilevel", "keep": KEEP, "recover": {"epochs": 1}, "constraints": {}}, "at least one limit"),
    ],
)
def test_what_does_not_go_together_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        prune(**given)


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        ({"accuracy_drop": 0.1, "attributes": ["tone", "age"]}, "no attribute 'age' is declared .* tone, sex"),
        ({"accuracy_drop": 0.1, "attributes": ["sex"], "intersections": True}, "two attributes or more"),
    ],
)
def test_undeclared_groups_are_refused_with_the_file(constraints: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        project(method="magnitude", keep=KEEP, recover={"epochs": 1}, constraints=constraints)


def test_declared_groups_are_taken() -> None:
    constraints = {"accuracy_drop": 0.1, "attributes": ["sex"]}
    found = project(method="magnitude", keep=KEEP, recover={"epochs": 1}, constraints=constraints)
    assert found.prune.constraints is not None
    assert found.prune.constraints.of(found.groups.attributes) == ("sex",)
    with pytest.raises(StageError, match="no attribute 'sex' is declared"):
        found.prune.constraints.of({"tone": ("light", "dark")})
