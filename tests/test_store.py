from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fairdeploy.store import NotKept, Store


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
