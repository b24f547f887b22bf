"""What looks constant on the rows of the check and is not: the analysis must not be taken in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy.compaction import compact
from fairdeploy.errors import CompactionError


class Net(nn.Module):
    """Linear layers a, d: 8 -> 8 and b, c: 8 -> 3; the first four units of a are closed."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.d = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b, self.c = nn.Linear(8, 3), nn.Linear(8, 3)
        self.run = run
        with torch.no_grad():
            self.a.weight[:4] = 0
            self.a.bias[:4] = 0

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


class One(Net):
    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def hidden(m: Net, x: Tensor) -> Tensor:
    return torch.relu(m.a(x))


RUNS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "batch size": lambda m, x: m.b(hidden(m, x)) + m.c(x) * torch.relu(torch.arange(x.shape[0]).to(x) - 5)[:, None],
    "times batch size": lambda m, x: m.b(hidden(m, x)) + m.c(x) * (x.shape[0] * torch.ones(3)),
    "filled": lambda m, x: m.b(hidden(m, x)) + m.c(x) * torch.fill(torch.zeros(3), torch.relu(x.mean() - 100)),
    "added to a softmax": lambda m, x: (
        torch.addmm(torch.relu(m.b(m.a(x)) - 1000), torch.softmax(m.c(x), -1), torch.ones(3, 3).to(x)) + m.d(x)[:, :3]
    ),
    "slopes": lambda m, x: F.prelu(m.c(x), torch.relu(m.b(hidden(m, x)).mean(0) - 1000) + 0.2),
    "shifts": lambda m, x: F.layer_norm(m.c(x), (3,), None, torch.relu(m.b(torch.relu(m.d(x))).mean(0) - 100)),
    "pool over channels": lambda m, x: m.b(F.avg_pool2d(hidden(m, x)[:, :, None].expand(-1, 8, 4), 3, 1, 1).mean(2)),
    "dead, rolled": lambda m, x: m.b(torch.roll(torch.relu(m.a(x) - 1000), 1)) + m.c(x),
    "dead, picked": lambda m, x: (
        torch.relu(m.a(x) - 1000).view(-1, 2, 4)[:, [[0], [1]], [[1, 2]]].sum((1, 2))[:, None] + m.c(x)
    ),
    "by a size": lambda m, x: m.c(x) + m.b(hidden(m, x) * x.shape[0]),
    "variance": lambda m, x: m.b(hidden(m, x)) * x.var(),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_other_rows_show_is_right(name: str) -> None:
    model = One(RUNS[name]).double()
    x = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = compact(model, (x,))
    for rows in (x, x.repeat(5, 1), x * 1e5, x + 200, -x * 1e4):
        with torch.no_grad():
            want = model(rows)
            torch.testing.assert_close(
                result.graph_module(rows), want, rtol=1e-8, atol=1e-9 * max(float(want.abs().max()), 1)
            )


def test_a_row_that_is_masked_altogether_gives_zeros_and_no_constant() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.v, self.o = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            with torch.no_grad():
                self.v.weight[:4], self.v.bias[:4] = 0, 3

        def forward(self, x: Tensor, pad: Tensor) -> Tensor:
            q = self.q(x)
            return self.o(F.scaled_dot_product_attention(q, q, self.v(x), attn_mask=~pad[:, None, :]))

    torch.manual_seed(0)
    model, x = Attend().double(), torch.randn(3, 5, 8, dtype=torch.float64)
    pad = torch.zeros(3, 5, dtype=torch.bool)
    result = compact(model, (x, pad))
    pad[0] = True
    with torch.no_grad():
        torch.testing.assert_close(result.graph_module(x, pad), model(x, pad), rtol=1e-9, atol=1e-9)


def test_a_network_that_remembers_is_refused() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 3)
            self.register_buffer("n", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.n.add_(1)
            return self.a(x) * torch.relu(self.n - 20)

    model = Counts()
    with pytest.raises(CompactionError, match=r"Counts.forward writes to 'n' in every pass"):
        compact(model, (torch.randn(2, 8),))
    assert float(model.n) == 0


def test_two_layers_of_one_module_without_biases_get_one_each() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.w2, self.w3 = (nn.Parameter(torch.randn(6, 6)) for _ in range(3))
            with torch.no_grad():
                self.w1[:2] = 0
                self.w2[:3] = 0

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.sigmoid(F.linear(torch.sigmoid(F.linear(x, self.w1)), self.w2)), self.w3)

    torch.manual_seed(0)
    model, x = Bare().double(), torch.randn(4, 6, dtype=torch.float64)
    result = compact(model, (x,))
    assert result.removed == {"w1": (6, 4), "w2": (6, 3)}
    with torch.no_grad():
        torch.testing.assert_close(result.graph_module(x), model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("made", [lambda: torch.ones(8) * 0.5, lambda: torch.arange(8) / 8])
def test_tensors_made_without_a_dtype_are_followed(made: Callable[[], Tensor]) -> None:
    model = One(lambda m, x: m.b(hidden(m, x) * made()) + (hidden(m, x) @ torch.ones(8))[:, None])
    result = compact(model, (torch.randn(2, 8),))
    assert result.removed["a.weight"] == (8, 4)


def test_an_output_that_does_not_move_is_told() -> None:
    model = One(lambda m, x: (m.c(x), m.b(hidden(m, x) * 0)))
    proof = compact(model, (torch.randn(2, 8),)).proof
    assert proof.still_outputs == (1,)
    assert proof.sensitivity > 0.01
