from __future__ import annotations

import errno
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fairdeploy.entries import changes, held, used
from fairdeploy.errors import ConfigError
from fairdeploy.store import NotKept, Store, locked


def writer(text: str, calls: list[str] | None = None):  # type: ignore[no-untyped-def]
    def produce(out: Path) -> None:
        if calls is not None:
            calls.append(text)
        (out / "result.txt").write_text(text)

    return produce


def test_the_same_key_runs_once(tmp_path: Path) -> None:
    calls: list[str] = []
    first = Store(tmp_path).run("prune", writer("a", calls), level=0.5)
    second = Store(tmp_path).run("prune", writer("a", calls), level=0.5)
    assert calls == ["a"]
    assert (first.cached, second.cached) == (False, True)
    assert first.digest == second.digest


def test_another_key_runs_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.run("prune", writer("a"), level=0.5).folder != store.run("prune", writer("a"), level=0.25).folder


def test_an_interrupted_station_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(out: Path) -> None:
        (out / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).run("prune", interrupted, level=0.5)
    assert not list(tmp_path.rglob("half.txt"))
    assert not Store(tmp_path).run("prune", writer("a"), level=0.5).cached


@pytest.mark.parametrize("harm", ["change", "delete", "entry"])
def test_a_damaged_result_is_made_again(tmp_path: Path, harm: str) -> None:
    kept = Store(tmp_path).run("prune", writer("a"), level=0.5)
    file = kept.folder / "result.txt"
    if harm == "change":
        file.write_text("b")
    elif harm == "delete":
        file.unlink()
    else:
        (kept.folder / "entry.json").write_text("{")
    again = Store(tmp_path).run("prune", writer("a"), level=0.5)
    assert not again.cached
    assert file.read_text() == "a"


def test_a_dry_store_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotKept, match="not made yet"):
        Store(tmp_path, dry=True).run("prune", writer("a"), level=0.5, seed=0)
    Store(tmp_path).run("prune", writer("a"), level=0.5, seed=0)
    assert Store(tmp_path, dry=True).run("prune", writer("a"), level=0.5, seed=0).cached
    with pytest.raises(NotKept, match="changed: seed"):
        Store(tmp_path, dry=True).run("prune", writer("a"), level=0.5, seed=1)


def test_fresh_runs_each_station_once(tmp_path: Path) -> None:
    calls: list[str] = []
    Store(tmp_path).run("prune", writer("a", calls), level=0.5)
    store = Store(tmp_path, fresh=True)
    store.run("prune", writer("a", calls), level=0.5)
    store.run("prune", writer("a", calls), level=0.5)
    assert len(calls) == 2


def test_two_at_once_run_it_once(tmp_path: Path) -> None:
    calls: list[str] = []
    threads = [
        threading.Thread(target=lambda: Store(tmp_path).run("prune", writer("a", calls), level=0.5)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["a"]


def test_a_dry_store_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotKept):
        Store(tmp_path / "store", dry=True).run("prune", writer("a"), level=0.5)
    assert list(tmp_path.iterdir()) == []


def test_a_station_that_fails_leaves_no_folder_and_no_lock(tmp_path: Path) -> None:
    def fails(out: Path) -> None:
        (out / "half.txt").write_text("half")
        raise ValueError

    root = tmp_path / "project" / ".fairdeploy" / "store"
    root.parent.parent.mkdir()
    with pytest.raises(ValueError):
        Store(root).run("prune", fails, level=0.5)
    assert list(root.parent.parent.iterdir()) == []
    kept = Store(root).run("prune", writer("a"), level=0.5)
    with pytest.raises(ValueError):
        Store(root).run("prune", fails, level=0.6)
    assert Store(root).run("prune", writer("a"), level=0.5) == replace(kept, cached=True)


def test_a_killed_process_leaves_what_the_next_sweeps(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        Store(tmp_path).run("prune", lambda out: os.kill(os.getpid(), signal.SIGKILL), level=0.5)
    os.waitpid(child, 0)
    (left,) = tmp_path.glob("prune/.making-*")
    with locked(tmp_path / "prune" / left.name.split("-")[1]):
        Store(tmp_path).run("compact", writer("a"))
        assert left.exists(), "somebody may be at work there"
    Store(tmp_path).run("compact", writer("b"))
    assert not list(tmp_path.rglob(".making-*"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_full_or_read_only_disk_leaves_nothing_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    Store(tmp_path).run("prune", writer("a"))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=os.strerror(code)):
            Store(tmp_path).run("compact", writer("a"))
    assert not list(tmp_path.rglob(".making-*"))
    assert Store(tmp_path).run("prune", writer("a")).cached
    assert not Store(tmp_path).run("compact", writer("a")).cached


def test_what_a_build_took_is_spared(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    kept = store.run("prune", writer("a"), level=0.5)
    store.note_use("first")
    other = Store(store.root).run("prune", writer("b"), level=0.6)
    name = f"prune/{kept.folder.name}"
    assert used(store.root, ["first"]) == {name}
    with pytest.raises(ConfigError, match="build second did not note"):
        used(store.root, ["second"])
    with pytest.raises(ConfigError, match="a build is using the store"):
        Store(store.root).prune()
    del store
    again = Store(tmp_path / "store")
    (gone,) = again.prune(spare={name}, dry=True)
    assert gone.folder == other.folder
    assert other.folder.exists()
    assert again.prune(made_before=0.0) == []
    assert [one.folder for one in again.prune(spare={name})] == [other.folder]
    assert [one.folder for one in held(again.root)] == [kept.folder]


def test_changes_are_named_down_to_the_part() -> None:
    before = {"measure": {"runs": 500, "threads": 1}, "model": "a" * 64, "levels": [1], "gone": 1}
    now = {"measure": {"runs": 50, "threads": 1}, "model": "b" * 64, "levels": [1], "new": "x"}
    assert changes(before, now) == ["gone (1 → null)", "measure.runs (500 → 50)", "model", 'new (null → "x")']


def test_why_compares_with_the_last_build(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.run("prune", writer("a"), level=1)
    store.note_use("first")
    Store(store.root).run("prune", writer("b"), level=2)
    with pytest.raises(NotKept, match=r"changed: level \(1 → 3\)"):
        Store(store.root, dry=True).run("prune", writer("c"), level=3)
