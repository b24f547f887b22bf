import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fairdeploy.evidence.schema as schema_module
import fairdeploy.evidence.tally as tally_module
from fairdeploy.errors import DataError, IntegrityError
from fairdeploy.evidence import Schema, Tally, encoding

SCHEMA = Schema(
    attributes={"tone": ("light", "dark"), "age": ("young", "old")}, contexts={"site": ("x", "y")},
    classes=("no", "yes"), clustered=True,
)  # fmt: skip
ROW = st.tuples(
    st.sampled_from(["light", "dark", ""]),
    st.sampled_from(["young", "old", "unknown"]),
    st.sampled_from(["x", "y"]),
    st.sampled_from(["p1", "p2", "p3", "p4"]),
    *[st.integers(0, 1)] * 3,
)
ROWS = st.lists(ROW, max_size=25)


def columns(rows, start=0):
    tone, age, site, person, label, reference, deployed = zip(*rows, strict=True) if rows else [()] * 7
    return {
        "ids": np.array([f"r{start + at}" for at in range(len(rows))], str),
        "labels": np.array(label, int),
        "attributes": {"tone": np.array(tone, str), "age": np.array(age, str)},
        "contexts": {"site": np.array(site, str)},
        "clusters": np.array(person, str),
        "reference": np.array(reference, int),
        "deployed": np.array(deployed, int),
    }


def count(rows):
    return Tally.count(SCHEMA, **columns(rows))


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, ROWS)
def test_addition_is_associative_commutative_and_equals_the_unsharded_tally(a, b, c):
    x, y, z = count(a), count(b), count(c)
    assert (x + y) + z == x + (y + z) == count(a + b + c)
    assert x + y == y + x
    assert x + Tally.zero(SCHEMA) == x
    assert (x + y + z).rows == len(a + b + c)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_row_order_changes_nothing(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert count(rows).to_json() == count(shuffled).to_json()


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_sums_equal_a_count_by_hand(rows):
    tally = count(rows)
    by_tone = tally.sums(("tone",), tally.coordinates["deployed"] == 1).sum(0)
    by_hand = [sum(row[6] for row in rows if (row[0] or "unknown") == tone) for tone in SCHEMA.levels("tone")]
    assert by_tone.tolist() == by_hand


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_json_comes_back_as_it_went(rows):
    tally = count(rows)
    assert Tally.from_json(tally.to_json()) == tally
    assert Tally.from_json(tally.to_json()).schema == SCHEMA


def test_rows_of_one_cluster_share_a_bucket_and_others_spread():
    rows = [("light", "old", "x", f"p{at // 5}", 0, 0, 0) for at in range(1000)]
    per_bucket = count(rows).sums(())
    assert set((per_bucket % 5).tolist()) == {0}
    assert (per_bucket > 0).sum() > 100


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_several_references_are_counted_as_one_by_one(rows):
    given_all = columns(rows)
    first, deployed = given_all.pop("reference"), given_all.pop("deployed")
    found = Tally.count_all(SCHEMA, references={"one": first, "two": 1 - first}, deployed=deployed, **given_all)
    assert found["one"] == count(rows)
    assert found["two"] == Tally.count(SCHEMA, reference=1 - first, deployed=deployed, **given_all)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_whole_numbers_fall_where_their_text_falls(numbers):
    found = encoding.hash_text(np.array(numbers, np.int64))
    assert found.tolist() == encoding.hash_text(np.array(list(map(str, numbers)))).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=8).filter(lambda text: "\0" not in text), min_size=1, max_size=20))
def test_a_hash_does_not_depend_on_padding(texts):
    assert [encoding.hash_text(np.array([text]))[0] for text in texts] == encoding.hash_text(np.array(texts)).tolist()


def test_levels_are_found_exactly_even_where_hashes_collide(monkeypatch):
    monkeypatch.setattr(encoding, "hash_text", lambda values: np.zeros(len(values), np.uint64))
    with pytest.raises(DataError, match="not a declared level"):
        encoding.codes("tone", ("light", "dark", "unknown"), {"tone": np.array(["light", "dark"])})
    ids = np.array(["a", "b", "c"])
    encoding.distinct(ids, encoding.hash_text(ids))
    with pytest.raises(DataError, match="1 are doubled, such as 'a'"):
        encoding.distinct(np.array(["a", "b", "a"]), encoding.hash_text(ids))


def test_numbers_and_objects_are_levels_too():
    for column in (np.array([7, 18, 7]), np.array(["7", "18", "7"], object), ["7", "18", "7"]):
        assert encoding.codes("age", ("18", "7", "unknown"), {"age": column}).tolist() == [1, 0, 1]


def test_one_class_stands_against_the_rest():
    schema = Schema(attributes={"g": ("a",)}, contexts={}, classes=("other", "dog", "cat"))
    tally = Tally.count(
        schema, ids=np.arange(6), labels=[0, 1, 2, 0, 1, 2], attributes={"g": ["a"] * 6}, contexts={}, clusters=None,
        reference=[0, 1, 2, 1, 2, 0], deployed=[0, 1, 0, 0, 0, 2],
    )  # fmt: skip
    expected = {"label": [0, 0, 1, 0, 0, 1], "reference": [0, 0, 1, 0, 1, 0], "deployed": [0, 0, 0, 0, 0, 1]}
    cat = tally.one_vs_rest(2)
    assert cat.schema.classes == ("other", "cat")
    assert cat.rows == 6
    at = cat.coordinates
    assert {axis: int(cat.counts[at[axis] == 1].sum()) for axis in expected} == {k: sum(v) for k, v in expected.items()}
    assert tally.one_vs_rest(0).schema.classes == ("rest", "other")
    with pytest.raises(DataError, match="no class 3: there are other, dog, cat"):
        tally.one_vs_rest(3)


def bucket_by_hand(text):
    """The hash as it is documented, one code point after the other."""
    value = sum(ord(point) * pow(0x9E3779B97F4A7C15, at + 1, 2**64) for at, point in enumerate(text)) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return (value ^ (value >> 31)) % 512


def test_the_bucket_of_a_cluster_is_the_same_everywhere():
    alone = [count([("light", "old", "x", person, 0, 0, 0)]).coordinates["bucket"][0] for person in ("ann", "bo")]
    assert alone == [bucket_by_hand("ann"), bucket_by_hand("bo")]


def test_unknown_comes_last_and_takes_what_is_missing():
    schema = Schema(attributes={"tone": ["unknown", "dark", ""]}, contexts={}, classes=("no", "yes"))
    assert schema.levels("tone") == ("dark", "unknown")
    tally = Tally.count(
        schema, ids=["1", "2", "3", "4"], labels=[0] * 4,
        attributes={"tone": np.array([None, float("nan"), "", "dark"], dtype=object)},
        contexts={}, clusters=None, reference=[0] * 4, deployed=[0] * 4,
    )  # fmt: skip
    assert tally.sums(("tone",)).sum(0).tolist() == [1, 3]


GOOD = [("light", "young", "x", "p1", 0, 1, 1), ("dark", "old", "y", "p2", 1, 0, 1)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ids": ["same", "same"]}, "doubled"),
        ({"ids": None}, "ids: give one value per row"),
        ({"ids": ["one"]}, "rows, but there are 1 ids"),
        ({"labels": [0.0, np.nan]}, "whole numbers"),
        ({"labels": ["0", "1"]}, "whole numbers"),
        ({"deployed": [0, 2]}, "classes run from 0 to 1"),
        ({"deployed": [0, -1]}, "classes run from 0 to 1"),
        ({"deployed": [1]}, "deployed: 1 rows, but there are 2 ids"),
        ({"reference": [0.5, 1.0]}, "whole numbers"),
        ({"clusters": None}, "clusters must be given"),
        ({"clusters": ["p1", ""]}, "1 rows have none"),
        ({"attributes": {"tone": ["light", "dark"]}}, "'age' is missing"),
        (
            {"attributes": {"tone": ["light", "Dark"], "age": ["young", "old"]}},
            "'Dark' is not a declared level of tone",
        ),
        ({"attributes": {"tone": [1.0, 2.0], "age": ["young", "old"]}}, "tone: give text"),
        ({"contexts": {}}, "'site' is missing"),
    ],
)
def test_bad_columns_are_refused_in_words(changes, says):
    with pytest.raises(DataError, match=says):
        Tally.count(SCHEMA, **(columns(GOOD) | changes))


def test_a_tally_of_another_schema_is_not_added():
    other = Schema(attributes={"tone": ("dark", "light"), "age": ("young", "old")}, contexts={"site": ("x", "y")},
                   classes=("no", "yes"), clustered=True)  # fmt: skip
    with pytest.raises(DataError, match="different schemas"):
        count(GOOD) + Tally.zero(other)


@pytest.mark.parametrize(
    ("cells", "counts", "says"),
    [
        ([0], [-1], "positive"),
        ([0], [0], "positive"),
        ([0], [2**53], "2\\*\\*53"),
        ([1, 0], [1, 1], "increasing"),
        ([0, 0], [1, 1], "increasing"),
        ([-1], [1], "inside"),
        ([10**12], [1], "inside"),
        ([0, 1], [1], "one length"),
    ],
)
def test_impossible_counts_are_refused(cells, counts, says):
    with pytest.raises(DataError, match=says):
        Tally(SCHEMA, np.array(cells, np.int64), np.array(counts, np.int64))


def test_an_overflowing_sum_is_refused():
    half = Tally(SCHEMA, np.array([0]), np.array([2**52]))
    with pytest.raises(DataError, match="2\\*\\*53"):
        half + half


def test_a_schema_must_be_usable():
    for bad in ({"tone": ()}, {"tone": ("a", "a")}, {"": ("a", "b")}, {"label": ("a", "b")}):
        with pytest.raises(DataError):
            Schema(attributes=bad, contexts={}, classes=("no", "yes"))
    with pytest.raises(DataError, match="classes"):
        Schema(attributes={"tone": ("a",)}, contexts={}, classes=("no", "no"))
    many = {f"a{at}": tuple("abcdefghi") for at in range(15)}
    with pytest.raises(DataError, match="too many"):
        Schema(attributes=many, contexts={}, classes=("no", "yes"))


def tampered(**changes):
    return json.dumps({**json.loads(count(GOOD).to_json()), **changes})


def resealed(**changes):
    """Change a file and give it the digest of its new content."""
    plain = {**json.loads(count(GOOD).to_json()), **changes}
    del plain["digest"]
    content = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return json.dumps({**plain, "digest": hashlib.sha256(content.encode()).hexdigest()})


def test_a_file_that_another_program_wrote_is_read():
    assert Tally.from_json(resealed(counts=[2, 1])).rows == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        tampered(counts=[2, 1]),
        tampered(digest="0" * 64),
        resealed(extra=1),
        resealed(counts=[1.0, 1]),
        resealed(counts=[float("nan"), 1]),
        resealed(counts=[True, 1]),
        resealed(counts=["1", 1]),
        resealed(counts=[10**30, 1]),
        resealed(counts=[-1, 1]),
        resealed(counts=[1]),
        count(GOOD).to_json().replace('"buckets":512', '"buckets":512,"buckets":512'),
        "[" * 100_000,
    ],
)
def test_a_changed_file_is_refused(text):
    with pytest.raises(IntegrityError, match="not a valid tally"):
        Tally.from_json(text)


@pytest.mark.parametrize("changes", [{"format": "fairdeploy-tally/1"}, {"buckets": 256}])
def test_a_file_of_another_format_is_refused_by_name(changes):
    with pytest.raises(IntegrityError, match="expected 'fairdeploy-tally/2' with 512 buckets"):
        Tally.from_json(resealed(**changes))


@pytest.mark.parametrize("module", [tally_module, schema_module, encoding])
def test_the_files_run_alone_on_python_3_8_with_numpy(module):
    tree = ast.parse(Path(module.__file__).read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"__future__", "dataclasses", "functools", "hashlib", "json", "math", "typing", "numpy", "numpy.typing"}
    shipped = {"fairdeploy.evidence.encoding", "fairdeploy.evidence.schema"}
    assert imported - allowed - shipped == {"fairdeploy.errors"}  # behind try: it is not there on a device


def test_streamed_rows_need_no_more_memory_than_a_few():
    code = "from tally_stream import measure; import sys; print(measure(int(sys.argv[1]), 50_000)['peak_memory_mb'])"
    folder = Path(__file__).parents[2] / "benchmarks"
    few, many = (
        float(subprocess.run([sys.executable, "-c", code, rows], capture_output=True, cwd=folder, check=True).stdout)
        for rows in ("100000", "1000000")
    )
    assert many < few + 40 < 500
