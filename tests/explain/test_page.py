"""The page with pictures: the true pixels, alternative texts, and no way into a bundle."""

from __future__ import annotations

import base64
import re
import stat
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fairdeploy.cli import main
from fairdeploy.data import Rows, StoredSplit
from fairdeploy.errors import ConfigError
from fairdeploy.explain import Explained, explain
from fairdeploy.report.explanation import pictures, png, render_page, write_page
from tests.explain.conftest import Small

TPR = "true_positive_rate.max_drop.dense"


class Page(HTMLParser):
    """Collects the tags with their attributes, and refuses what does not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def decode(uri: str) -> NDArray[np.uint8]:
    """Read an unfiltered PNG, checking every chunk."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(kind + content),)
        chunks[kind], at = content, at + 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, color = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    channels = {0: 1, 2: 3}[color]
    assert depth == 8
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, channels)


@pytest.fixture(scope="module")
def found(pruned: Small) -> Explained:
    return explain(pruned.folder, (TPR, "group=b"), samples=10)


def test_every_row_has_its_own_pixels_and_a_text_that_replaces_them(found: Explained) -> None:
    images = [attributes for tag, attributes in Page(render_page(found)).tags if tag == "img"]
    assert len(images) == len(found.explanation.flips) == 10
    ids = found.evaluate.rows.ids.tolist()
    for flip, image in zip(found.explanation.flips, images, strict=True):
        truth = found.evaluate.inputs["image"][ids.index(flip.trace.id)]
        assert np.array_equal(decode(image["src"] or "").transpose(2, 0, 1), truth)
        assert image["alt"] == f"Input image of row {flip.trace.id}, labelled service, predicted passing"


def test_the_page_is_alone_and_says_that_it_stays_here(found: Explained) -> None:
    text = render_page(found)
    assert "stays on the machine" in text
    assert "shows pictures and ids of people" in text
    assert found.explanation.sentence.replace("'", "&#39;") in text
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    assert render_page(found) == text


def test_names_are_text_and_no_markup(found: Explained) -> None:
    flip = found.explanation.flips[0]
    trace = flip.trace.model_copy(update={"cluster": "<img src=x onerror=alert(1)>"})
    flips = (flip.model_copy(update={"trace": trace}),)
    hostile = Explained(found.explanation.model_copy(update={"flips": flips}), found.evaluate)
    assert "<img src=x" not in render_page(hostile)


def test_a_row_that_was_asked_for_is_shown_with_its_trace(pruned: Small) -> None:
    text = render_page(explain(pruned.folder, (TPR, "group=a"), sample="evaluate-0000"))
    assert len([1 for tag, _ in Page(text).tags if tag == "img"]) == 1
    for stage in ("Dense", "Pruned", "Compact", "Exported", "Runtime"):
        assert f'<th scope="row">{stage}</th>' in text


def test_the_command_writes_it_for_its_owner_only(
    pruned: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert main(["explain", "-C", str(pruned.folder), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert len(re.findall("data:image/png", out.read_text())) == 24


@pytest.mark.parametrize("place", ["build/page.html", "build/latest/this-host/page.html", ".fairdeploy/page.html"])
def test_it_is_not_written_where_builds_are(found: Explained, pruned: Small, place: str) -> None:
    with pytest.raises(ConfigError, match="people's rows"):
        write_page(found, pruned.folder / place, project=pruned.folder)
    assert not (pruned.folder / place).exists()


def test_nor_into_a_folder_that_is_a_bundle_elsewhere(found: Explained, pruned: Small, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="people's rows"):
        write_page(found, tmp_path / "page.html", project=pruned.folder)


def test_a_folder_that_is_not_there_is_said(found: Explained, pruned: Small, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        write_page(found, tmp_path / "none" / "page.html", project=pruned.folder)


def split_of(**inputs: NDArray[np.generic]) -> StoredSplit:
    rows = Rows(np.array(["one"]), np.array([0]), {})
    return StoredSplit(Path(), rows, inputs, "", np.array([b""]))


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "pixels"),
    [
        (np.full((1, 3, 9, 8), 7, np.uint8), np.full((9, 8, 3), 7)),
        (np.full((1, 9, 8, 3), 7, np.uint8), np.full((9, 8, 3), 7)),
        (np.full((1, 1, 9, 8), 7, np.uint8), np.full((9, 8, 1), 7)),
        (np.full((1, 3, 9, 8), 0.2, np.float32), np.full((9, 8, 3), 51)),
        (np.full((1, 3, 9, 8), 51.0, np.float32), np.full((9, 8, 3), 51)),
        (np.linspace(-1, 1, 192, dtype=np.float32).reshape(1, 3, 8, 8), None),
    ],
)
def test_pictures_of_any_layout_and_range(values: NDArray[np.generic], pixels: NDArray[np.int64] | None) -> None:
    ((name, uri),) = pictures(split_of(face=values), 0)
    assert name == "face"
    if pixels is None:
        assert (decode(uri).min(), decode(uri).max()) == (0, 255)
    else:
        assert np.array_equal(decode(uri), pixels)


@pytest.mark.parametrize("shape", [(1, 40), (1, 3, 4, 4), (1, 5, 9, 9), (1, 2, 3, 9, 9)])
def test_what_is_no_picture_is_not_shown(shape: tuple[int, ...]) -> None:
    assert pictures(split_of(face=np.zeros(shape, np.float32)), 0) == []


def test_png_is_lossless() -> None:
    pixels = RANDOM.integers(0, 256, (11, 17, 3)).astype(np.uint8)
    assert np.array_equal(decode("data:image/png;base64," + base64.b64encode(png(pixels)).decode()), pixels)
