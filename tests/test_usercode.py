"""User code: found in the project's folder, its mistakes told with file and line, its bytes digested."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairdeploy.errors import ConfigError, DataError
from fairdeploy.usercode import call, code_digest, load_object, user_errors


@pytest.fixture(autouse=True)
def _modules_as_before() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def project(folder: Path, **files: str) -> Path:
    """Write a package ``shop`` with the given modules."""
    package = folder / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    return folder


def test_an_object_comes_from_the_project_folder(tmp_path: Path) -> None:
    assert load_object("shop.data:VALUE", project(tmp_path, data="VALUE = 7")) == 7
    assert sys.path[0] == str(tmp_path)


def test_two_projects_with_the_same_package_name_do_not_mix(tmp_path: Path) -> None:
    text = "def value():\n    from shop.inner import VALUE\n    return VALUE\n"
    first = project(tmp_path / "first", data=text, inner="VALUE = 1")
    second = project(tmp_path / "second", data=text, inner="VALUE = 2")
    assert load_object("shop.data:value", first)() == 1
    assert load_object("shop.data:value", second)() == 2
    assert load_object("shop.data:value", first)() == 1


def test_a_project_without_the_code_does_not_find_anothers(tmp_path: Path) -> None:
    load_object("shop.data:VALUE", project(tmp_path / "first", data="VALUE = 1"))
    (tmp_path / "second").mkdir()
    with pytest.raises(ConfigError, match="no module 'shop'"):
        load_object("shop.data:VALUE", tmp_path / "second")


def test_a_module_is_loaded_once(tmp_path: Path) -> None:
    folder = project(tmp_path, data="VALUE = object()")
    assert load_object("shop.data:VALUE", folder) is load_object("shop.data:VALUE", folder)


@pytest.mark.parametrize("name", ["shop.dta:VALUE", "shopp.data:VALUE"])
def test_a_missing_module_is_named_with_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_object(name, project(tmp_path, data="VALUE = 7"))
    assert f"no module '{name.split(':')[0] if name[4] == '.' else 'shopp'}'" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_attribute_brings_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no 'split'; did you mean 'splits'\?"):
        load_object("shop.data:split", project(tmp_path, data="def splits(): ..."))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("x = 1\ny = x / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("x = 1\n\nif x\n    pass\n", 3, "SyntaxError"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
        ("\nimport surely_not_installed\n", 2, "No module named 'surely_not_installed'"),
        ("import numpy as np\nx = np.zeros(3)\nx.reshape(2, 2)\n", 3, "cannot reshape"),
        ("import json\n\n\njson.loads('{')\n", 4, "JSONDecodeError"),
    ],
)
def test_an_error_at_import_points_at_the_users_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_object("shop.data:VALUE", project(tmp_path, data=text))
    assert (caught.value.file, caught.value.line) == (tmp_path / "shop" / "data.py", line)


def test_a_module_that_an_installed_one_hides_is_refused(tmp_path: Path) -> None:
    import numpy

    (tmp_path / "numpy.py").write_text("VALUE = 1")
    with pytest.raises(ConfigError, match=r"'numpy' in .* is hidden by .*numpy/__init__.py: rename it"):
        load_object("numpy:VALUE", tmp_path)
    assert sys.modules["numpy"] is numpy


def test_an_installed_package_may_be_named(tmp_path: Path) -> None:
    import json

    assert load_object("json:loads", tmp_path) is json.loads


def splits(*, seed: int, train: int = 10) -> int:
    return seed + train


def test_call_passes_the_arguments() -> None:
    assert call(splits, {"seed": 1, "train": 2}, name="shop:splits") == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seed": 1, "trian": 2}, "shop:splits has no argument 'trian'; did you mean 'train'"),
        ({}, "shop:splits: missing a required .*argument: 'seed'"),
        ({"seed": "a", "train": 2}, "calling shop:splits failed: TypeError"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call(splits, arguments, name="shop:splits")


def test_what_is_not_callable_is_told() -> None:
    with pytest.raises(ConfigError, match="7 is not a callable object"):
        call(7, {}, name="shop:splits")  # type: ignore[arg-type]


def test_our_own_errors_pass_unchanged() -> None:
    error = DataError("at least ten rows")
    with pytest.raises(DataError) as caught, user_errors("calling"):
        raise error
    assert caught.value is error


def test_an_interrupt_is_not_a_mistake_of_the_user() -> None:
    with pytest.raises(KeyboardInterrupt), user_errors("calling"):
        raise KeyboardInterrupt


def test_code_digest_sees_code_and_declared_files_only(tmp_path: Path) -> None:
    folder = project(tmp_path, data="VALUE = 1")
    (folder / "rows.csv").write_text("1")
    files = (Path("rows.csv"),)
    seen = [code_digest(folder, files)]

    for ignored in (".venv/a.py", "build/a.py", ".fairdeploy/a.py", "env/lib/a.py", "__pycache__/a.py", "notes.txt"):
        (folder / ignored).parent.mkdir(exist_ok=True, parents=True)
        (folder / ignored).write_text("changed")
    (folder / "env/pyvenv.cfg").touch()
    os.utime(folder / "shop/data.py", (0, 0))
    assert code_digest(folder, files) == seen[0]

    (folder / "rows.csv").write_text("2")
    seen.append(code_digest(folder, files))
    (folder / "shop/data.py").write_text("VALUE = 2")
    seen.append(code_digest(folder, files))
    (folder / "shop/data.py").rename(folder / "shop/rows.py")
    seen.append(code_digest(folder, files))
    seen.append(code_digest(folder))
    assert len(set(seen)) == 5


def test_code_digest_does_not_depend_on_where_the_project_lies(tmp_path: Path) -> None:
    here, there = (project(tmp_path / name, data="VALUE = 1", model="VALUE = 2") for name in ("here", "there"))
    assert code_digest(here) == code_digest(there)


def test_a_declared_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.files names 'rows.csv', which is not a file"):
        code_digest(tmp_path, (Path("rows.csv"),))


def test_what_the_users_code_prints_does_not_mix_with_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project(tmp_path, data="print('importing')\ndef make():\n    print('making')\n    return 3\n")
    assert call(load_object("shop.data:make", folder), {}, name="make") == 3
    assert capsys.readouterr() == ("", "importing\nmaking\n")
