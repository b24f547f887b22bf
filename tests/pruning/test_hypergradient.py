"""The upper level's gradient against finite differences, and against implicit differentiation where that is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fairdeploy.pruning.hypergradient import Loss, hypergradient

DIM, VARIABLES = 6, 4


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def network_losses() -> tuple[Loss, Loss, dict[str, Tensor]]:
    """A small network whose hidden units are multiplied by the variables, on two batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, VARIABLES), nn.Tanh(), nn.Linear(VARIABLES, 2)).double()
    weights = dict(model.named_parameters())

    def on(seed: int) -> Loss:
        x, y = drawn(seed, 40, 3), torch.from_numpy(np.random.default_rng(seed).integers(0, 2, 40))

        def loss(parameters: Mapping[str, Tensor], gates: Tensor) -> Tensor:
            gated = {**parameters, "2.weight": parameters["2.weight"] * gates}
            return functional.cross_entropy(functional_call(model, gated, (x,)), y)

        return loss

    return on(1), on(2), weights


@pytest.mark.parametrize("step", [0.0, 0.1, 2.0])
def test_it_is_the_slope_of_the_answer_of_one_step(step: float) -> None:
    upper, lower, weights = network_losses()

    def answered(gates: Tensor) -> float:
        here = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        slopes = torch.autograd.grad(lower(here, gates), list(here.values()))
        moved = {name: tensor - step * slope for (name, tensor), slope in zip(here.items(), slopes, strict=True)}
        return float(upper(moved, gates).detach())

    gates, tiny = torch.linspace(0.2, 1.0, VARIABLES, dtype=torch.float64), 1e-5
    units = torch.eye(VARIABLES, dtype=torch.float64) * tiny
    wanted = [(answered(gates + unit) - answered(gates - unit)) / (2 * tiny) for unit in units]
    found = hypergradient(upper, lower, weights, gates, step=step)
    assert found.tolist() == pytest.approx(wanted, rel=1e-6, abs=1e-10)
    assert not found.requires_grad
    assert all(tensor.grad is None for tensor in weights.values())


def test_without_an_answer_it_is_the_direct_slope() -> None:
    upper, lower, weights = network_losses()
    gates = torch.ones(VARIABLES, dtype=torch.float64, requires_grad=True)
    (direct,) = torch.autograd.grad(upper(weights, gates), [gates])
    torch.testing.assert_close(hypergradient(upper, lower, weights, gates, step=0.0), direct)
    assert not torch.allclose(hypergradient(upper, lower, weights, gates, step=1.0), direct)


def quadratic(hessian: Tensor) -> tuple[Loss, Loss, Tensor, Tensor]:
    """Lower: (w - B a)' H (w - B a) / 2, at its least in w = B a; upper: |w - t|^2 / 2."""
    pull, target = drawn(3, DIM, VARIABLES), drawn(4, DIM)

    def lower(weights: Mapping[str, Tensor], variables: Tensor) -> Tensor:
        away = weights["w"] - pull @ variables
        return away @ hessian @ away / 2

    def upper(weights: Mapping[str, Tensor], variables: Tensor) -> Tensor:
        return (weights["w"] - target).square().sum() / 2

    return upper, lower, pull, target


@pytest.mark.parametrize("curvature", [0.5, 1.0, 7.0])
def test_on_a_round_bowl_it_is_the_implicit_gradient(curvature: float) -> None:
    """With a Hessian of c times the identity a step of 1 / c is Newton's: exact, wherever the weights stand."""
    upper, lower, pull, target = quadratic(curvature * torch.eye(DIM, dtype=torch.float64))
    variables = drawn(5, VARIABLES)
    implicit = pull.T @ (pull @ variables - target)  # dw*/da = B, and the upper slope there
    for weights in (pull @ variables, drawn(6, DIM)):
        found = hypergradient(upper, lower, {"w": weights}, variables, step=1 / curvature)
        torch.testing.assert_close(found, implicit)


def test_elsewhere_it_is_short_of_it_by_what_one_step_leaves() -> None:
    """At the lower level's answer it is B' (s H) (w - t): of what it should be, s H."""
    curvatures = torch.linspace(0.5, 4.0, DIM, dtype=torch.float64)
    upper, lower, pull, target = quadratic(torch.diag(curvatures))
    variables = drawn(5, VARIABLES)
    answer = pull @ variables
    implicit = pull.T @ (answer - target)
    errors = []
    for step in (0.01, 0.1, 0.25):
        found = hypergradient(upper, lower, {"w": answer}, variables, step=step)
        torch.testing.assert_close(found, pull.T @ (step * curvatures * (answer - target)))
        errors.append(float((found - implicit).norm()))
    assert errors == sorted(errors, reverse=True), "less wrong with a longer step, as far as the steepest allows"
    assert errors[-1] > 0.1 * float(implicit.norm()), "and never right"


def test_weights_that_a_loss_does_not_use_are_left_out() -> None:
    upper, lower, pull, _ = quadratic(torch.eye(DIM, dtype=torch.float64))
    weights = {"w": drawn(6, DIM), "unused": drawn(7, 2)}
    found = hypergradient(upper, lower, weights, drawn(5, VARIABLES), step=1.0)
    torch.testing.assert_close(found, hypergradient(upper, lower, {"w": weights["w"]}, drawn(5, VARIABLES), step=1.0))
