"""Functions in a child process: values, errors of our tree, crashes, hangs, limits."""

import inspect

import pytest

from fairdeploy import errors
from fairdeploy.devices.child import run_child
from fairdeploy.errors import BackendError, BackendUnavailable, ConfigError, MissingExtra

FUNCTIONS = """
import os, sys, time
from fairdeploy.errors import BackendUnavailable, ConfigError, MissingExtra, IntegrityError

def add(a, b): return {"sum": a + b}
def unavailable(): raise BackendUnavailable("x", "not installed")
def config(): raise ConfigError("wrong", file="f.yaml", line=3)
def extra(): raise MissingExtra("this", "torch")
def integrity(): raise IntegrityError("digest")
def foreign(): raise ZeroDivisionError("by zero")
def crash():
    print("last words of a compiler", file=sys.stderr, flush=True)
    os.abort()
def hang(): time.sleep(1000)
def hog(): return len(bytearray(4 << 30))
def leave(): sys.exit(3)
def not_json(): return object()
"""


@pytest.fixture(autouse=True)
def functions(tmp_path, monkeypatch):
    (tmp_path / "child_functions.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def call(name, **options):
    return run_child(f"child_functions:{name}", options.pop("arguments", {}), **options)


def test_a_value_comes_back():
    assert call("add", arguments={"a": 2, "b": 3}) == {"sum": 5}


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("unavailable", BackendUnavailable, "backend 'x' cannot run here: not installed"),
        ("config", ConfigError, "f.yaml:3: wrong"),
        ("extra", MissingExtra, "this needs the extra 'torch': pip install 'fairdeploy[torch]'"),
        ("integrity", errors.IntegrityError, "digest"),
        ("foreign", BackendError, "child_functions:foreign failed: ZeroDivisionError: by zero"),
        ("not_json", BackendError, "not JSON"),
        ("missing", BackendError, "missing"),
    ],
)
def test_errors_keep_class_and_message(name, kind, message):
    with pytest.raises(kind) as caught:
        call(name)
    assert type(caught.value) is kind
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "kind", [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.FairdeployError)]
)
def test_every_class_of_the_tree_can_come_back(kind):
    from fairdeploy.devices.child import _revive

    back = _revive("f", kind.__name__, "said")
    assert type(back) is kind
    assert str(back) == "said"


def test_a_crash_is_told_with_last_words():
    with pytest.raises(BackendError, match="SIGABRT.*last words of a compiler"):
        call("crash")


def test_an_exit_is_no_answer():
    with pytest.raises(BackendError, match="code 3"):
        call("leave")


def test_a_hang_is_killed():
    with pytest.raises(BackendError, match="did not end in time"):
        call("hang", timeout_s=1)


def test_memory_is_limited():
    with pytest.raises(BackendError, match="MemoryError"):
        call("hog", memory_mb=1024)
