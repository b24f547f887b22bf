"""Bad input is answered with one clear sentence, before anything is changed; what has no rule stays whole."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from fairdeploy.compaction import apply_masks, channel_groups, compact
from fairdeploy.errors import CompactionError, FairdeployError

from .hard import Net, normal
from .networks import randomise

X = (torch.zeros(2, 4),)


def around(between: Any = torch.relu) -> nn.Module:
    run = lambda m, x: m.leave(between(m.enter(x)))  # noqa: E731
    return randomise(Net(run, enter=nn.Linear(4, 6), leave=nn.Linear(6, 2)), 0)


def refused(model: nn.Module, said: str, example: Any = X, **options: Any) -> None:
    """Assert that an error of ours in one sentence comes, and that the model stays as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(FairdeployError, match=said) as caught:
        compact(model, example, **options)
    assert len(str(caught.value).strip().splitlines()) == 1
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[key].nan_to_num(), after[key].nan_to_num()) for key in before)


def branches(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x * 2
    return x


def test_control_flow_on_data_names_the_line_and_what_to_do() -> None:
    refused(around(branches), r"test_bad_input\.py:\d+: if x\.sum\(\) > 0.*mend the forward pass")


def test_a_batch_size_written_into_the_network() -> None:
    refused(around(lambda x: x.reshape(2, 6)), "free batch size")


def test_a_forward_that_raises() -> None:
    def boom(x: Tensor) -> Tensor:
        raise ValueError("no such thing")

    refused(around(boom), "no such thing")


def test_a_forward_with_keywords_only() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, *, x: Tensor) -> Tensor:
            return self.layer(x)

    refused(Keywords(), "cannot follow Keywords.forward")


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"enter.weight": np.ones(5, bool)}, "needs a numpy array of 6 booleans"),
        ({"enter.weight": np.ones((6, 1), bool)}, "needs a numpy array of 6 booleans"),
        ({"enter.weight": np.ones(6)}, "needs a numpy array of 6 booleans"),
        ({"enter.weight": torch.ones(6, dtype=torch.bool)}, "needs a numpy array of 6 booleans"),
        ({"enter": np.ones(6, bool)}, "no channel group 'enter'; known: .*enter.weight"),
        ({"leave.weight": np.array([True, False])}, "must stay whole"),
        ({"enter.weight": np.zeros(6, bool)}, "cut the network through: .* \\('enter.weight' lets nothing through"),
    ],
)
def test_masks_that_do_not_fit(masks: Any, said: str) -> None:
    refused(around(), said, masks=masks)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    model = around()
    with torch.no_grad():
        model.enter.weight[2, 1] = value
    refused(model, "not finite")


@pytest.mark.parametrize(
    "example",
    [
        (),
        X[0],
        [X[0]],
        (None,),
        (torch.zeros(0, 4),),
        (torch.tensor(1.0),),
        (np.zeros((2, 4)),),
        (torch.zeros(2, 4), torch.zeros(3, 4)),
    ],
)
def test_examples_that_are_no_rows(example: Any) -> None:
    refused(around(), "example inputs", example)


@pytest.mark.parametrize(
    "example",
    [
        (torch.zeros(2, 5),),
        (torch.zeros(2, 4).long(),),
        (torch.zeros(2, 4), torch.zeros(2, 4)),
    ],
)
def test_examples_that_the_network_does_not_take(example: Any) -> None:
    refused(around(), "cannot follow Net.forward|does not run on its example inputs", example)


@pytest.mark.parametrize(
    "rows",
    [
        (torch.zeros(3, 5),),
        (torch.zeros(3, 4), torch.zeros(3, 4)),
        (),
        X[0],
        (torch.zeros(3, 4).long(),),
    ],
)
def test_check_inputs_unlike_the_examples(rows: Any) -> None:
    refused(around(), "inputs", check_inputs=rows)


@torch.library.custom_op("fairdeploy_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return x * 2


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize(
    ("between", "op"),
    [
        (lambda x: x.sort(1)[0], "sort"),
        (lambda x: x.topk(6, 1)[0], "topk"),
        (lambda x: (x[:, :, None] @ x[:, None] + torch.eye(6, dtype=x.dtype)).inverse()[:, 0], "inv"),
        (lambda x: torch.fft.rfft(x, dim=1).abs().repeat(1, 2)[:, :6], "fft"),
        (doubled, "fairdeploy_tests.doubled"),
    ],
)
def test_an_operation_without_a_rule_stays_whole_and_is_named(between: Any, op: str) -> None:
    model = around(between).double()
    with torch.no_grad():
        model.enter.weight[2], model.enter.weight[4] = 0, 0
        model.enter.bias[2] = 0
    x = (torch.zeros(2, 4, dtype=torch.float64),)
    result = compact(model, x)
    assert any(op in name for name in result.unknown_ops)
    assert "enter.weight" not in result.removed
    (group,) = (g for g in channel_groups(model, x) if g.name == "enter.weight")
    assert op in str(group.reason)
    (rows,) = normal(4)(5, torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(result.module(rows), model(rows), rtol=1e-9, atol=1e-9)


def test_a_model_in_training_mode_stays_so_and_is_compacted_as_in_evaluation() -> None:
    model = randomise(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)), 0)
    model.train()
    counted = int(model[1].num_batches_tracked)
    result = compact(model, X, {"0.weight": np.arange(6) > 1})
    assert model.training
    assert model[2].training
    assert int(model[1].num_batches_tracked) == counted
    assert result.removed["0.weight"] == (6, 4)


def pruned(how: str) -> nn.Module:
    model = around()
    if how == "ln_structured":
        prune.ln_structured(model.enter, "weight", amount=2, n=2, dim=0)
        prune.ln_structured(model.leave, "weight", amount=1, n=2, dim=1)
    elif how == "global_unstructured":
        prune.global_unstructured([(model.enter, "weight"), (model.leave, "weight")], prune.L1Unstructured, amount=0.6)
    else:
        mask = torch.ones(6, 4)
        mask[[1, 3]] = 0
        prune.custom_from_mask(model.enter, "weight", mask)
        prune.custom_from_mask(model.enter, "bias", mask[:, 0])
    return model


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("how", ["ln_structured", "global_unstructured", "custom"])
def test_masks_of_torch_go_through_and_stay(how: str, removed: bool) -> None:
    model = pruned(how)
    if removed:
        for part in (model.enter, model.leave):
            for name in ("weight", "bias"):
                if prune.is_pruned(part) and hasattr(part, f"{name}_orig"):
                    prune.remove(part, name)
    hooks = len(model.enter._forward_pre_hooks)
    result = compact(model, X)
    assert len(model.enter._forward_pre_hooks) == hooks
    assert hasattr(model.enter, "weight_orig") is not removed
    if how != "global_unstructured":
        assert result.removed["enter.weight"][1] <= 4
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(result.module(rows), model(rows))


def test_an_exported_program_is_taken_and_left_alone() -> None:
    model = around().double()
    masked = apply_masks(model, channel_groups(model, X), {"enter.weight": np.arange(6) % 2 == 0})
    example = (torch.zeros(2, 4, dtype=torch.float64),)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(masked, example, dynamic_shapes=({0: batch},))
    before = {key: value.clone() for key, value in program.state_dict.items()}
    result = compact(program, example)
    assert result.removed["enter.weight"] == (6, 3)
    assert all(torch.equal(before[key], program.state_dict[key]) for key in before)
    rows = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(result.module(rows), masked(rows), rtol=1e-9, atol=1e-9)


def test_parametrised_modules_work_as_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))
    rows = torch.randn(3, 4)
    with torch.no_grad():
        want = model(rows)
        compact(copy.deepcopy(model), X, {"0.weight": np.arange(6) > 2})
        compact(model, X, {"0.weight": np.arange(6) > 2})
        assert torch.equal(model(rows), want)


def test_errors_are_ours() -> None:
    assert issubclass(CompactionError, FairdeployError)
