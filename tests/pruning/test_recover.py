"""Fine-tuning: it learns, gives the same bytes for a seed, and draws cells equally; bad input is refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from fairdeploy.compaction import compact
from fairdeploy.data import Rows
from fairdeploy.errors import DataError, StageError
from fairdeploy.export import export_onnx
from fairdeploy.model import ModelSpec, Preprocess, TensorSpec
from fairdeploy.project import Recover
from fairdeploy.pruning import Progress, Schedule, recover, set_deterministic, stored_problem
from fairdeploy.pruning.sampling import epoch_order


@dataclass(frozen=True)
class Stored:
    inputs: dict[str, NDArray[Any]]
    rows: Rows


SPEC = ModelSpec(
    task="binary-classification",
    inputs={"image": TensorSpec(shape=("batch", 3, 4, 4))},
    preprocess=Preprocess(mean=(120.0, 125.0, 130.0), std=(60.0, 50.0, 40.0)),
)
OPTIONS = Recover(epochs=4, learning_rate=2e-2, batch_size=16)
GROUPS = {"tone": ("light", "dark")}


def split(rows: int = 96, seed: int = 0) -> Stored:
    """Positives are brighter in red."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    image = rng.integers(0, 200, (rows, 3, 4, 4)).astype(np.uint8)
    image[labels == 1, 0] += 55
    tone = np.where(rng.random(rows) < 0.1, "dark", "light")
    return Stored({"image": image}, Rows(np.array([f"r{i}" for i in range(rows)]), labels, {"tone": tone}))


def net() -> nn.Module:
    with set_deterministic(1):
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 2)
        ).eval()


def tuned(
    module: nn.Module,
    data: Stored,
    *,
    spec: ModelSpec = SPEC,
    options: Recover = OPTIONS,
    seed: int = 0,
    augment: Any = None,
    **more: Any,
) -> nn.Module:
    """Fine-tune on the train split of a project whose prune split nobody needs."""
    splits = {"train": data, "prune": split(8)}
    problem = stored_problem(splits, spec, GROUPS, options=options, seed=seed, augment=augment)
    return recover(module, problem, Schedule(options.epochs, options.learning_rate), seed=seed, **more).module


def state(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def fed(data: Stored) -> torch.Tensor:
    """What the network is fed, by the formula in `Preprocess`."""
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (SPEC.preprocess.mean, SPEC.preprocess.std))
    return torch.from_numpy(((data.inputs["image"] - mean) / std).astype(np.float32))


def loss(module: nn.Module, data: Stored) -> float:
    x = fed(data)
    with torch.no_grad():
        return float(nn.functional.cross_entropy(module(x), torch.from_numpy(data.rows.labels)))


def test_it_learns_on_a_copy() -> None:
    module, data = net(), split()
    before = state(module)
    steps: list[Progress] = []
    found = tuned(module, data, progress=steps.append)
    assert state(module) == before
    assert not found.training
    assert loss(found, split(seed=9)) < 0.6 * loss(module, split(seed=9))
    assert [(at.done, at.total) for at in steps] == [(done, 24) for done in range(1, 25)]
    assert all(np.isfinite(at.loss) and at.violations == () for at in steps)
    assert int(found[1].num_batches_tracked) == 6 + 24, "batch norms are counted anew, and learn"


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_the_same_seed_gives_the_same_bytes(sampling: str) -> None:
    options = OPTIONS.model_copy(update={"sampling": sampling, "epochs": 2})
    torch.manual_seed(5)
    first = state(tuned(net(), split(), options=options, seed=3))
    torch.manual_seed(6)
    torch.rand(7)
    assert state(tuned(net(), split(), options=options, seed=3)) == first
    assert state(tuned(net(), split(), options=options, seed=4)) != first


def test_no_epochs_give_the_module_itself() -> None:
    module = net()
    assert tuned(module, split(), options=Recover()) is module


def test_memory_mapped_inputs_do(tmp_path: Any) -> None:
    data = split()
    np.save(tmp_path / "image.npy", data.inputs["image"])
    mapped = replace(data, inputs={"image": np.load(tmp_path / "image.npy", mmap_mode="r")})
    options = OPTIONS.model_copy(update={"epochs": 1})
    outcomes = {state(tuned(net(), one, options=options)) for one in (data, mapped)}
    assert len(outcomes) == 1


class Spy(nn.Module):
    """Keeps every batch that it is fed."""

    def __init__(self, seen: list[torch.Tensor]) -> None:
        super().__init__()
        self.seen, self.head = seen, nn.Linear(48, 2)

    def __deepcopy__(self, memo: object) -> Spy:
        return Spy(self.seen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.clone())
        return self.head(x.flatten(1))


def seen_by(spec: ModelSpec, data: Stored, **more: Any) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    tuned(Spy(seen), data, spec=spec, options=Recover(epochs=1, batch_size=8), **more)
    return torch.cat(
        sorted(torch.cat(seen).flatten(1), key=lambda row: float(row.double() @ torch.arange(48.0).double()))
    )


def test_the_network_is_fed_what_the_spec_says() -> None:
    data = split(8)
    scaled = seen_by(SPEC, data)
    swapped = SPEC.model_copy(update={"preprocess": SPEC.preprocess.model_copy(update={"color": "bgr"})})
    reversed_data = replace(data, inputs={"image": data.inputs["image"][:, ::-1]})
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.sum(), fed(data).sum())
    torch.testing.assert_close(seen_by(swapped, reversed_data), scaled)
    assert not torch.equal(seen_by(swapped, data), scaled)


def test_augmentation_sees_raw_rows_and_a_seeded_generator() -> None:
    data = split(8)

    def blank(raw: Any, generator: np.random.Generator) -> Any:
        assert raw["image"].dtype == np.uint8
        return {"image": np.full_like(raw["image"], generator.integers(200))}

    first = seen_by(SPEC, data, augment=blank)
    assert torch.equal(first, seen_by(SPEC, data, augment=blank))
    assert len(first.unique()) == 3, "one value for each channel"


def test_probabilities_are_trained_on_their_logarithm() -> None:
    spec = SPEC.model_copy(update={"output": "probabilities"})
    module, data = nn.Sequential(net(), nn.Softmax(1)), split()
    found, same = tuned(module, data, spec=spec), tuned(net(), data)
    x = fed(data)[:8]
    torch.testing.assert_close(found(x), same(x).softmax(1), rtol=1e-3, atol=1e-3)


def rows_of(cells: dict[tuple[str, str, int], int]) -> Rows:
    flat = [cell for cell, count in cells.items() for _ in range(count)]
    columns = list(zip(*flat, strict=True))
    return Rows(
        np.array([str(i) for i in range(len(flat))]),
        np.array(columns[2]),
        {"tone": np.array(columns[0]), "age": np.array(columns[1])},
    )


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["I", "VI", ""]), st.sampled_from(["young", "old"]), st.integers(0, 1)),
        st.integers(1, 30),
        min_size=1,
    ),
    st.integers(0, 99),
)
def test_balanced_draws_every_cell_equally_and_its_rows_evenly(cells: dict[Any, int], seed: int) -> None:
    rows = rows_of(cells)
    order = epoch_order(rows, "balanced", np.random.default_rng(seed))
    assert len(rows) <= len(order) < len(rows) + len(cells)
    names = [*zip(rows.attributes["tone"], rows.attributes["age"], rows.labels, strict=True)]
    draws = {cell: 0 for cell in cells}
    for position in order:
        draws[names[position]] += 1
    assert len(set(draws.values())) == 1
    counts = np.bincount(order, minlength=len(rows))
    for cell in cells:
        of_cell = counts[[name == cell for name in names]]
        assert of_cell.max() - of_cell.min() <= 1
    natural = epoch_order(rows, "natural", np.random.default_rng(seed))
    assert sorted(natural) == list(range(len(rows)))


def test_an_exported_graph_cannot_be_trained() -> None:
    graph = torch.export.export(net(), (torch.zeros(2, 3, 4, 4),)).module(check_guards=False)
    with pytest.raises(StageError, match="cannot be trained"):
        tuned(graph, split())


class Halved(nn.Module):
    """Its forward holds a size, so that its class cannot hold fewer channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.1)
        self.left, self.right = nn.Linear(12, 2), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.relu(self.norm(self.conv(x))).split([3, 3], 1)
        return self.drop(self.left(left.flatten(1)) + self.right(right.flatten(1)))


def test_a_compacted_graph_learns_and_is_exported(tmp_path: Path) -> None:
    with set_deterministic(1):
        model = Halved().eval()
    keep = np.array([1, 0, 1, 1, 1, 0], bool)
    result = compact(model, (torch.zeros(2, 3, 4, 4),), {"conv.weight": keep})
    assert isinstance(result.module, torch.fx.GraphModule)
    module, data = result.trainable(), split()
    before = state(module)
    found = tuned(module, data)
    assert state(module) == before
    assert loss(found, split(seed=9)) < 0.7 * loss(module, split(seed=9))
    assert not torch.equal(found.get_buffer("norm.running_mean"), module.get_buffer("norm.running_mean"))
    assert state(tuned(module, data)) == state(found)
    report = export_onnx(found, {"image": fed(data)[:4]}, tmp_path / "model.onnx", spec=SPEC, check_inputs=data.inputs)
    assert report.parameters < sum(parameter.numel() for parameter in model.parameters())


def test_divergence_is_said() -> None:
    options = OPTIONS.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(StageError, match=r"the loss is (nan|inf) at step \d+ \(batch \d+ of epoch 1\)"):
        tuned(net(), split(), options=options)


def test_another_number_of_classes_is_said() -> None:
    spec = ModelSpec(task="multiclass-classification", inputs=SPEC.inputs, classes=("a", "b", "c"))
    with pytest.raises(StageError, match=r"\[rows, 3\]"):
        tuned(net(), split(), spec=spec)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: replace(d, inputs={}), "no input 'image'"),
        (lambda d: replace(d, inputs={"image": np.full((96, 3, 4, 4), np.nan, np.float32)}), "NaN"),
        (lambda d: replace(d, inputs={"image": d.inputs["image"][:5]}), "5 rows"),
        (lambda d: replace(d, rows=replace(d.rows, labels=d.rows.labels + 1)), "classes are 0 to 1"),
        (lambda d: Stored({"image": d.inputs["image"][:0]}, Rows(np.array([], str), np.array([], int), {})), "no rows"),
    ],
)  # fmt: skip
def test_a_split_that_does_not_fit_is_refused(change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        tuned(net(), change(split()))


def test_torch_gets_its_state_back() -> None:
    torch.manual_seed(11)
    threads, state_before = torch.get_num_threads(), torch.get_rng_state()
    with set_deterministic(3, threads=threads + 1):
        first = torch.rand(1)
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), state_before)
    with set_deterministic(3):
        assert torch.equal(torch.rand(1), first)


def test_torch_gets_its_state_back_after_an_error() -> None:
    with pytest.raises(StageError):
        tuned(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), split())
    assert not torch.are_deterministic_algorithms_enabled()
