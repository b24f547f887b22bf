"""The zipapp that every device runs: the runner, one backend's file, and empty packages around them."""

from __future__ import annotations

import inspect
import io
import zipfile
from pathlib import Path

from fairdeploy.backends import Backend

MAIN = "import sys\nfrom fairdeploy.devices.runner import main\nsys.exit(main(sys.argv[1:]))\n"
FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def session_name(backend: Backend) -> str:
    """Return ``module:Class`` of a backend's session, as the runner imports it."""
    return f"{backend.session.__module__}:{backend.session.__qualname__}"


def build_zipapp(backend: Backend) -> bytes:
    """Return the zipapp; the same sources give the same bytes."""
    ours = Path(__file__).parent
    sources = {
        "fairdeploy.devices.runner": ours / "runner.py",
        "fairdeploy.devices.facts": ours / "facts.py",
        "fairdeploy.evidence.encoding": ours.parent / "evidence" / "encoding.py",
        "fairdeploy.evidence.schema": ours.parent / "evidence" / "schema.py",
        "fairdeploy.evidence.tally": ours.parent / "evidence" / "tally.py",
        backend.session.__module__: Path(inspect.getfile(backend.session)),
    }
    content = {"__main__.py": MAIN.encode()}
    for module, file in sources.items():
        parts = module.split(".")
        content |= {"/".join([*parts[:depth], "__init__.py"]): b"" for depth in range(1, len(parts))}
        content["/".join(parts) + ".py"] = file.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(content):
            archive.writestr(zipfile.ZipInfo(name, FIXED_TIME), content[name])
    return packed.getvalue()
