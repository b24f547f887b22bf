"""Every way in which a data callable can be wrong is told with the column, the row and what to mend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairdeploy.data import SPLITS, UNKNOWN, Rows, checked_rows, load_splits
from fairdeploy.errors import ConfigError, DataError
from fairdeploy.project import Groups, load_project

CONFIG = """
version: 1
name: shop
task: binary-classification
model: {import: shop_code:build, weights: w.safetensors, inputs: {image: {shape: [batch, 3, 2]}}}
data: {import: "shop_code:splits", arguments: {size: 4}}
groups: {attributes: {tone: [light, dark]}, contexts: [site], cluster: person}
gates: {worst_group_accuracy: {min: 0.5}}
targets: [this-host]
"""

CODE = """
import numpy as np
from fairdeploy.data import SPLITS, Rows, Split

def splits(size):
    made = {}
    for name in SPLITS:
        ids = np.array([f"{name}-{i}" for i in range(size)])
        rows = Rows(ids, np.arange(size) % 2, {"tone": np.array(["light", "dark", "", "dark"])},
                    {"site": np.array(["north"] * size)}, ids)
        made[name] = Split(rows, lambda size: iter(()))
    return made
"""


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    path = list(sys.path)

    def run(code: str) -> Any:
        (tmp_path / "fairdeploy.yaml").write_text(CONFIG)
        (tmp_path / "shop_code.py").write_text(code)
        return load_splits(load_project(tmp_path)[0], tmp_path)

    yield run
    sys.path[:] = path
    sys.modules.pop("shop_code", None)


def test_the_five_splits_come_checked(load: Callable[[str], Any]) -> None:
    splits = load(CODE)
    assert tuple(splits) == SPLITS
    assert splits["tune"].rows.attributes["tone"].tolist() == ["light", "dark", UNKNOWN, "dark"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("return made", "return [made]", "shop_code:splits returned list, not a dict"),
        ("return made", "del made['tune'], made['prune']; return made", "the dict lacks prune, tune; it holds exactly"),
        ("return made", "return made | {'test': made['tune']}", "the dict has unknown test; it holds exactly train"),
        ("Split(rows, lambda size: iter(()))", "rows", "'train' is Rows, not a fairdeploy.data.Split"),
        ('"tone": np', '"tones": np', "train: attribute 'tone' is declared .* did you mean 'tones'"),
        ('["light", "dark"', '["ligth", "dark"', r"first 'ligth' at row 0 \('train-0'\); did you mean 'light'"),
        ("np.arange(size) % 2", "np.arange(size)", r"train: 2 labels .* from 0 to 1, first 2 at row 2 \('train-2'\)"),
        ("def splits(size)", "def splits(sizes)", "shop_code:splits has no argument 'size'; did you mean 'sizes'"),
    ],
)
def test_a_wrong_callable_is_told(load: Callable[[str], Any], old: str, new: str, said: str) -> None:
    assert CODE.count(old) == 1
    with pytest.raises(ConfigError, match=said):
        load(CODE.replace(old, new))


def test_an_error_in_the_callable_points_at_its_line(load: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="calling shop_code:splits failed: RuntimeError: no disk") as caught:
        load("\ndef splits(size):\n    raise RuntimeError('no disk')\n")
    assert (caught.value.file, caught.value.line) == (tmp_path / "shop_code.py", 3)


Changes = dict[str, Any]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ids": np.array([], str)}, "tune: has no rows"),
        ({"ids": np.arange(10)}, r"tune: ids: expected an array of text \[n\], not int64"),
        ({"ids": np.array([["a"] * 10])}, "tune: ids: expected an array of text"),
        ({"ids": np.array([None] * 10)}, "tune: ids: expected an array of text"),
        ({"ids": np.array(["a", " ", *"cdefghij"])}, r"tune: ids: 1 values are missing, first row 1"),
        ({"ids": np.array([*"babacdefgh"])}, "tune: 2 ids stand more than once, first 'b', 'a'$"),
        ({"labels": np.array([0, 1])}, "tune: labels has 2 values for 10 ids: rows must be aligned"),
        ({"labels": np.array([0, -1] * 5)}, r"5 labels are not a class index from 0 to 1, first -1 at row 1 \('tune-1"),
        ({"labels": np.array([0, np.nan] * 5)}, "5 labels are not a class index from 0 to 1, first nan at row 1"),
        ({"labels": np.array([0.0, 1.0] * 5)}, "tune: labels are float64: give integers"),
        ({"labels": np.array([True, False] * 5)}, "tune: labels: expected class indices"),
        ({"labels": np.array(["yes", "no"] * 5)}, "tune: labels: expected class indices"),
        ({"attributes": {}}, "tune: attribute 'tone' is declared under groups but is not in the data"),
        ({"attributes": {"tone": np.array(["dark"])}}, "attribute 'tone' has 1 values for 10 ids"),
        ({"attributes": {"tone": np.array([1, 2] * 5)}}, "attribute 'tone': expected an array of text"),
        ({"attributes": {"tone": np.array(["Dark", "dark"] * 5)}}, "5 values are not declared, first 'Dark' at row 0"),
        ({"contexts": {}}, "tune: context 'site' is declared under groups but is not in the data"),
        ({"contexts": {"site": np.array(["north", ""] * 5)}}, "context 'site': 5 values are missing, first row 1"),
        ({"clusters": None}, "groups.cluster is 'person', but Rows.clusters is not given: fill it"),
        ({"clusters": np.array(["a"])}, "cluster 'person' has 1 values for 10 ids"),
        ({"clusters": np.array(["a", ""] * 5)}, "cluster 'person': 5 values are missing, first row 1"),
    ],
)
def test_wrong_rows_are_told(make_rows: Callable[..., Rows], groups: Groups, changes: Changes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        checked_rows(make_rows(**changes), split="tune", classes=2, groups=groups)


def test_a_context_with_a_level_for_every_row_is_told(make_rows: Callable[..., Rows], groups: Groups) -> None:
    rows = make_rows(501, contexts={"site": np.arange(501).astype(str)})
    with pytest.raises(DataError, match="tune: context 'site' holds 501 different values, at most 500"):
        checked_rows(rows, split="tune", classes=2, groups=groups)


def test_missing_attribute_values_become_unknown_and_undeclared_columns_go(
    make_rows: Callable[..., Rows], groups: Groups
) -> None:
    tone = np.array(["light", "", " ", "unknown", "dark"])
    rows = make_rows(5, attributes={"tone": tone, "shoe_size": np.array([*"abcde"])})
    checked = checked_rows(rows, split="tune", classes=2, groups=groups)
    assert checked.attributes["tone"].tolist() == ["light", UNKNOWN, UNKNOWN, UNKNOWN, "dark"]
    assert set(checked.attributes) == {"tone"}
    assert tone.tolist()[1] == "", "the user's own array stays as it was"


def test_text_held_as_objects_is_accepted(make_rows: Callable[..., Rows], groups: Groups) -> None:
    rows = make_rows(2, attributes={"tone": np.array(["light", "dark"], object)})
    assert checked_rows(rows, split="tune", classes=2, groups=groups).attributes["tone"].dtype.kind == "U"


def test_without_a_declared_cluster_none_is_kept(make_rows: Callable[..., Rows]) -> None:
    groups = Groups(attributes={"tone": ("light", "dark")})
    checked = checked_rows(make_rows(), split="tune", classes=2, groups=groups)
    assert checked.clusters is None
    assert not checked.contexts
