"""Tables whose rows would trick `fairdeploy.judge`: each is refused, and the same rows without the trick are not."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fairdeploy
from fairdeploy.errors import ConfigError, DataError

DROP = {"accuracy": {"max_drop": 0.02}}


def made(n: int = 1000) -> dict[str, Any]:
    label = np.random.default_rng(0).integers(0, 2, n)
    columns = {name: label.astype(object) for name in ("label", "prediction", "reference")}
    return {"id": [f"r{at}" for at in range(n)], "sex": ["f", "m"] * (n // 2), **columns}


def put(rows: dict[str, Any], name: str, values: list[Any], at: int = 0) -> dict[str, Any]:
    changed = list(rows[name])
    changed[at : at + len(values)] = values
    return {**rows, name: changed}


def doubled(rows: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """Give the rows twice, the second time under other ids."""
    return {name: [*values, *values] for name, values in rows.items()} | {"id": [*rows["id"], *ids]}


def status(rows: Any, **more: Any) -> str:
    return fairdeploy.judge(rows, **{"groups": ["sex"], "gates": DROP, **more}).verdict.status


def refusal(rows: Any, **more: Any) -> str:
    with pytest.raises(DataError) as error:
        status(rows, **more)
    return str(error.value)


def test_the_rows_themselves_pass() -> None:
    assert status(made()) == "pass"


@pytest.mark.parametrize("word", ["None", "null", "NA", "n/a", "NaN", "nan", "NAN", "nil", "-", "?", "", "<NA>", None])
def test_a_word_for_missing_is_no_label(word: str | None) -> None:
    message = refusal(put(made(), "label", [word] * 3, at=7))
    assert "row 8: column 'label'" in message
    if word not in ("", None, "nan", "NaN"):
        assert f"'{word}' in 3 rows" in message


def test_a_class_that_is_called_none_is_declared() -> None:
    rows = made()
    named = {name: np.array(["none", "crack"])[rows[name].astype(int)] for name in ("label", "prediction", "reference")}
    assert "--classes" in refusal({**rows, **named}, positive="crack")
    assert status({**rows, **named}, classes=["none", "crack"]) == "pass"


def test_a_third_label_that_nothing_predicts_dilutes_no_rate() -> None:
    rows = put(made(), "label", ["other"] * 5, at=7)
    message = refusal(rows)
    assert "row 8: column 'label': 'other' in 5 rows" in message
    assert "--classes" in message
    assert status(rows, classes=["0", "1", "other"]) == "pass"
    assert status(put(rows, "reference", ["other"], at=7)) == "pass"


@pytest.mark.parametrize("spelt", ["{}.0", "{}.00", "0{}", "00{}", "+{}", " {} "])
@pytest.mark.parametrize("write", [str, int])
def test_rows_under_ids_that_are_spelt_otherwise_are_the_same_rows(spelt: str, write: type) -> None:
    rows = made() | {"id": [write(at) for at in range(1000)]}
    message = refusal(doubled(rows, [spelt.format(at) for at in range(1000)]))
    assert "column 'id'" in message
    assert "1000 rows repeat an id" in message


def test_ids_that_only_look_alike_in_part_are_different() -> None:
    rows = made()
    for spelt in ("{}.05", "v{}.0.1", "{}.5", "a0{}"):
        assert status(doubled(rows, [spelt.format(at) for at in range(1000)]) | {}) == "pass"
    assert status(rows | {"id": [f"{at:06d}" for at in range(1000)]}) == "pass"
    apart = doubled(rows | {"id": [f"{at}.05" for at in range(1000)]}, [f"{at}5" for at in range(1000)])
    assert status(apart) == "pass"


def test_a_wide_id_is_the_narrow_one() -> None:
    wide = str.maketrans("0123456789r", "０１２３４５６７８９ｒ")
    rows = made()
    assert "1000 rows repeat an id" in refusal(doubled(rows, [one.translate(wide) for one in rows["id"]]))


@pytest.mark.parametrize("hidden", ["\u200b", "\ufeff", "\x00", "\n", "\r", "\u2028", "\u00ad", "\u3164", "\ufe0f"])
@pytest.mark.parametrize("name", ["id", "sex", "label", "prediction", "reference", "site", "person"])
def test_what_cannot_be_seen_is_refused(name: str, hidden: str) -> None:
    rows = made() | {"site": ["a", "b"] * 500, "person": [f"p{at}" for at in range(1000)]}
    message = refusal(put(rows, name, [f"1{hidden}1"], at=7), contexts=["site"], cluster="person")
    assert f"row 8: column '{name}'" in message
    assert f"U+{ord(hidden):04X}" in message


def test_names_in_other_scripts_are_no_trick() -> None:
    names = np.array(["女性", "São Paulo\u00a0Sul"], object)
    assert status(made() | {"sex": names[np.arange(1000) % 2]}) == "pass"


def test_clusters_that_are_spelt_otherwise_are_the_same() -> None:
    people = [str(at // 40) for at in range(1000)]
    rows = made()
    plain = fairdeploy.judge(rows | {"person": people}, groups=["sex"], cluster="person").evidence.tallies
    spelt = [one + ".0" * (at % 2) for at, one in enumerate(people)]
    assert fairdeploy.judge(rows | {"person": spelt}, groups=["sex"], cluster="person").evidence.tallies == plain
    zeros = ["0" * (at % 2) + one for at, one in enumerate(people)]
    message = refusal(rows | {"person": zeros}, cluster="person")
    assert "column 'person'" in message
    assert "'00'" in message
    assert status(rows | {"person": [f"{at // 2:05d}" for at in range(1000)]}, cluster="person") == "pass"


@pytest.mark.parametrize("name", ["id", "label", "prediction", "reference", "person"])
def test_masked_values_are_missing(name: str) -> None:
    rows = made() | {"id": np.arange(1000), "person": np.arange(1000)}
    mask = np.arange(1000) % 5 == 2
    masked = np.ma.masked_array(np.asarray(rows[name], np.int64), mask=mask)
    assert f"row 3: column '{name}' is empty" in refusal({**rows, name: masked}, cluster="person")
    whole = {**rows, name: np.ma.masked_array(masked.data, mask=False)}
    assert status(whole, cluster="person") == "pass"


def test_masked_scores_and_groups_are_missing() -> None:
    rows, mask = made(), np.arange(1000) % 5 == 2
    scores = np.ma.masked_array(np.linspace(0, 1, 1000), mask=mask)
    assert "row 3: column 'score' is None, no probability" in refusal({**rows, "score": scores}, threshold=0.5)
    found = fairdeploy.judge({**rows, "sex": np.ma.masked_array(rows["sex"], mask=mask)}, groups=["sex"])
    (tally,) = found.evidence.tallies.values()
    assert "unknown" in tally.schema.attributes["sex"]
    assert next(one.n for one in found.evidence.record.rates if one.group == {"sex": "unknown"}) == 200


def test_nobody_shops_for_a_seed() -> None:
    assert "seed" not in inspect.signature(fairdeploy.judge).parameters
    assert fairdeploy.judge(made(), groups=["sex"]).evidence.record.seed == 0


def test_a_quoted_id_swallows_no_rows(tmp_path: Path) -> None:
    rows, file = made(), tmp_path / "rows.csv"
    lines = [",".join(map(str, row)) for row in zip(*rows.values(), strict=True)]
    file.write_text("\n".join([",".join(rows), *lines]))
    assert status(file) == "pass"
    file.write_text("\n".join([",".join(rows), *lines, '"q', "b1,f,1,0,1", "b2,f,1,0,1", '",f,1,1,1']))
    message = refusal(file)
    assert message.startswith(f"{file}:1002: column 'id'")
    assert "U+000A" in message


def test_labels_of_the_reference_that_were_not_compared_are_said() -> None:
    rows = made()
    old = {"id": rows["id"], "prediction": rows.pop("reference"), "Label": rows["label"]}
    found = fairdeploy.judge(rows, reference_file=old, groups=["sex"])
    assert any("no column 'label'" in note and "not compared" in note for note in found.predictions.notes)
    old["label"] = old.pop("Label")
    found = fairdeploy.judge(rows, reference_file=old, groups=["sex"])
    assert not any("not compared" in note for note in found.predictions.notes)


def test_shards_of_the_reference_with_labels_are_compared() -> None:
    rows = made()
    old = {"id": rows["id"], "prediction": rows.pop("reference"), "label": 1 - rows["label"]}
    first = {name: values[:500] for name, values in old.items()}
    rest = {name: values[500:] for name, values in old.items() if name != "label"}
    assert "500 ids have another label there" in refusal(rows, reference_file=[first, rest])


@pytest.mark.parametrize("levels", [["m"], ["m", "m", "m", ""]])
def test_one_group_alone_is_no_comparison(levels: list[str]) -> None:
    rows = made() | {"sex": [levels[at % len(levels)] for at in range(1000)]}
    message = refusal(rows)
    assert "column 'sex'" in message
    assert "sex=m|" in message
    with pytest.raises(ConfigError):
        status(rows, groups={"sex": ["m"]})
    assert status(rows, groups={"sex": ["f", "m"]}) == "inconclusive"
