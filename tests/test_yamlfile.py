from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy import yamlfile
from fairdeploy.errors import ConfigError
from fairdeploy.records import Record


class Inner(Record):
    colour: str = "red"
    sizes: tuple[int, ...] = ()


class Outer(Record):
    version: str
    inner: Inner = Inner()


def document(tmp_path: Path, text: str) -> yamlfile.Document:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    return yamlfile.read(file)


def test_values_stay_what_yaml_1_2_says(tmp_path: Path) -> None:
    data = document(tmp_path, "a: NO\nb: on\nc: yes\nd: true\ne: 010\n").data
    assert data == {"a": "NO", "b": "on", "c": "yes", "d": True, "e": 10}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\na: 2\n", 2, "duplicate key"),
        ("a: &x 1\nb: *x\n", 1, "anchor '&x'"),
        ("a:\n  {<<: {b: 1}, b: 2}\n", 2, "merge key '<<'"),
        ("a: !!python/object 1\n", 1, "tag"),
        ("%YAML 1.1\n---\na: 1\n", None, "directive"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: [1, 2\n", 2, "not valid YAML"),
        ("- 1\n", 1, "key: value"),
        ("", 1, "key: value"),
        ("1: a\n", 1, "quote it"),
        ("a: " + "[" * 60 + "]" * 60, 1, "nesting deeper"),
    ],
)
def test_what_is_refused_and_where(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        document(tmp_path, text)
    if line is not None:
        assert caught.value.line == line
    assert caught.value.file == tmp_path / "a.yaml"


def test_missing_large_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        yamlfile.read(tmp_path / "none.yaml")
    (tmp_path / "big.yaml").write_text("a: " + "x" * 1_000_001)
    with pytest.raises(ConfigError, match="at most"):
        yamlfile.read(tmp_path / "big.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        yamlfile.read(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ('version: "1"\ninner:\n  color: blue\n', (3, 3), "did you mean 'colour'"),
        ("version: 10.10\n", (1, 1), 'quote it, as in "10.1"'),
        ("inner: {}\n", (1, 1), "'version' is missing"),
        ('version: "1"\ninner:\n  sizes: [1, x]\n', (3, 14), "inner.sizes.1"),
    ],
)
def test_validation_points_at_the_key(tmp_path: Path, text: str, place: tuple[int, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        yamlfile.validate(Outer, document(tmp_path, text))
    assert (caught.value.line, caught.value.column) == place


def test_every_problem_is_listed_in_order(tmp_path: Path) -> None:
    found = yamlfile.problems(Outer, document(tmp_path, "inner:\n  colr: 1\n  sizes: 3\nextra: 1\n"))
    assert [one.line for one in found] == sorted(one.line or 0 for one in found)
    assert len(found) == 4


def test_overlay_merges_mappings_and_keeps_origins(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("a: {x: 1, y: 2}\nb: [1, 2, 3]\n")
    (tmp_path / "high.yaml").write_text("b: [9]\na:\n  y: 5\n")
    merged = yamlfile.overlay(yamlfile.read(tmp_path / "low.yaml"), yamlfile.read(tmp_path / "high.yaml"))
    assert merged.data == {"a": {"x": 1, "y": 5}, "b": [9]}
    assert merged.origin(("a", "x")).file.name == "low.yaml"
    assert merged.origin(("a", "y")).file.name == "high.yaml"
    assert merged.origin(("b", 0)).file.name == "high.yaml"
    assert ("b", 2) not in merged.origins


@given(st.text(max_size=200))
def test_any_text_is_a_document_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("yaml") / "a.yaml"
    file.write_text(text, "utf-8", errors="surrogatepass")
    with contextlib.suppress(ConfigError):
        assert isinstance(yamlfile.read(file).data, dict)
