"""Which rows calibrate: equal cells as far as rows allow, seeded, never a row twice."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.calibrate import Recipe, choose_rows, load_recipe
from fairdeploy.data.splits import Rows
from fairdeploy.errors import ConfigError, DataError


def make_rows(cells):
    """Return rows with given counts per (tone, sex, label), shuffled."""
    members = [cell for cell, count in cells.items() for _ in range(count)]
    order = np.random.default_rng(1).permutation(len(members))
    tone, sex, label = (np.array([members[i][part] for i in order]) for part in range(3))
    return Rows(
        ids=np.array([f"r{i}" for i in range(len(members))]),
        labels=label.astype(int),
        attributes={"tone": tone.astype(str), "sex": sex.astype(str)},
    )


def counts(rows, chosen):
    columns = (rows.attributes["tone"], rows.attributes["sex"], rows.labels.astype(str))
    return Counter(zip(*(column[chosen].tolist() for column in columns), strict=True))


BALANCED = Recipe(id="b", balance=("groups", "label"), rows=40)


def test_every_cell_gives_the_same_number():
    rows = make_rows({(t, s, y): 10 + 50 * (t == "light") for t in ("light", "dark") for s in "fm" for y in (0, 1)})
    assert set(counts(rows, choose_rows(rows, BALANCED, 0)).values()) == {5}


def test_a_small_cell_gives_all_and_the_others_make_up_for_it():
    rows = make_rows({("a", "f", 0): 3, ("a", "f", 1): 100, ("b", "f", 0): 100, ("b", "f", 1): 100})
    found = counts(rows, choose_rows(rows, BALANCED, 0))
    assert found[("a", "f", "0")] == 3
    assert sorted(found.values()) == [3, 12, 12, 13]


cell = st.tuples(st.sampled_from(["a", "b", "c", ""]), st.sampled_from("fm"), st.integers(0, 1))


@given(st.dictionaries(cell, st.integers(1, 30), min_size=1), st.integers(1, 200), st.integers(0, 99))
def test_cells_are_as_equal_as_their_rows_allow(cells, wanted, seed):
    rows = make_rows(cells)
    recipe = Recipe(id="b", balance=("groups", "label"), rows=wanted)
    chosen = choose_rows(rows, recipe, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(wanted, len(rows))
    assert chosen.tolist() == sorted(chosen.tolist())
    found = counts(rows, chosen)
    taken = {one: found[(one[0], one[1], str(one[2]))] for one in cells}
    most = max(taken.values())
    assert all(taken[one] >= most - 1 or taken[one] == cells[one] for one in cells)
    assert chosen.tolist() == choose_rows(rows, recipe, seed).tolist()


def test_the_seed_matters_and_natural_rows_keep_their_shares():
    rows = make_rows({("a", "f", 0): 900, ("b", "f", 0): 100})
    natural = Recipe(id="n", rows=300)
    chosen = choose_rows(rows, natural, 0)
    assert chosen.tolist() != choose_rows(rows, natural, 1).tolist()
    assert 10 <= counts(rows, chosen)[("b", "f", "0")] <= 50


def test_balance_by_label_alone_ignores_groups():
    rows = make_rows({("a", "f", 0): 90, ("b", "f", 0): 10, ("a", "f", 1): 20})
    found = choose_rows(rows, Recipe(id="l", balance=("label",), rows=40), 0)
    assert Counter(rows.labels[found].tolist()) == {0: 20, 1: 20}


def test_no_rows_is_an_error():
    with pytest.raises(DataError, match="no rows"):
        choose_rows(make_rows({}), BALANCED, 0)


def test_shipped_recipes_load():
    assert load_recipe("group-balanced").balance == ("groups", "label")
    assert load_recipe("natural").balance == ()


def test_a_project_recipe_comes_first_and_errors_have_a_place(tmp_path):
    folder = tmp_path / "calibration"
    folder.mkdir()
    (folder / "natural.yaml").write_text("version: 1\nid: natural\nrows: 5\n")
    assert load_recipe("natural", tmp_path).rows == 5
    (folder / "mine.yaml").write_text("version: 1\nid: mine\nballance: [label]\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:3:1: unknown key 'ballance'; did you mean 'balance'"):
        load_recipe("mine", tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'group-balanced'"):
        load_recipe("group-balance", tmp_path)
