from concurrent.futures import ProcessPoolExecutor

import pytest

from fairdeploy.attempts import LOG, note_look
from fairdeploy.errors import ConfigError


def look(folder, build, gates="g1", data="d", verdict="fail"):
    return note_look(folder, build, data, {"here": gates}, {"here": verdict})


def test_every_look_is_counted_once_and_stands_in_the_log(tmp_path):
    look(tmp_path, "b1")
    look(tmp_path, "b2", "g2")
    look(tmp_path, "b2", "g2")
    look(tmp_path, "b3", data="other")
    found = look(tmp_path, "b2", "g3", verdict="pass")
    assert (found.builds, found.gate_sets) == (2, 3)
    assert [one.decision for one in found.entries] == ["look 1: here: fail", "look 2: here: fail", "look 3: here: pass"]
    assert "b2 under gates here g3" in found.entries[2].reason


def _note(folder, number):
    look(folder, f"b{number}")


def test_two_builds_at_once_lose_no_look(tmp_path):
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(_note, [tmp_path] * 24, range(24)))
    assert look(tmp_path, "b0").builds == 24


def test_a_damaged_log_is_refused(tmp_path):
    look(tmp_path, "b1")
    for damage in ("{", '{"build": "b1"}', "[]"):
        (tmp_path / LOG).write_text(damage + "\n")
        with pytest.raises(ConfigError, match="looks are then counted anew"):
            look(tmp_path, "b2")
