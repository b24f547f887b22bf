"""Register backends for the length of a test, the way an installed package does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def registered(folder: Path, **backends: str) -> Iterator[None]:
    """Put a folder on the import path, in child processes too, with entry points for backends.

    Parameters
    ----------
    folder : Path
        An empty or module-holding folder; package metadata is written into it.
    backends : str
        Entry points by backend name, as in ``mine="my_module:MyBackend"``.
    """
    metadata = folder / "fairdeploy_test_plugin-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fairdeploy-test-plugin\nVersion: 0\n")
    lines = ["[fairdeploy.backends]", *(f"{name} = {value}" for name, value in backends.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    before = os.environ.get("PYTHONPATH")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
