"""Data larger than memory: ``python benchmarks/larger_than_memory.py``.

Sets of images are generated, and a project's line reads each into its store, in a process that may allocate less than
the inputs take. RLIMIT_DATA is the limit: it counts what a process allocates, where RLIMIT_AS would count the store's
files, too, which are mapped and read page by page. Prints a table and writes ``results/larger_than_memory.{json,md}``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tables import RESULTS, machine, markdown, write

SIDE = 360
SHARES = {"train": 0.66, "prune": 0.01, "calibrate": 0.01, "tune": 0.01, "evaluate": 0.31}
FORMATS = {
    "npz": "{format: npz, file: data.npz, shares: %s}",
    "imagefolder": "{format: imagefolder, root: photos, table: labels.csv, shares: %s}",
}
ROW_BYTES = {"npz": 4 * 3 * SIDE * SIDE, "imagefolder": 3 * SIDE * SIDE}
CONFIG = """
version: 1
name: large
task: binary-classification
model: {import: m:build, weights: w.safetensors, inputs: {image: {shape: [batch, 3, %d, %d]}}}
data: %s
groups: {attributes: {tone: [light, dark]}}
gates: {worst_group_accuracy: {min: 0.5}}
targets: [this-host]
"""
CHILD = """
import json, resource, sys, time
from pathlib import Path
limit_bytes = int(sys.argv[2]) << 20
resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
from fairdeploy.line import Line
splits = Line(Path(sys.argv[1])).splits(("train", "evaluate"))
read_bytes = sum(one.inputs["image"].nbytes for one in splits.values())
try:
    limited = not bytearray(limit_bytes)
except MemoryError:
    limited = True
print(json.dumps({"rows": sum(map(len, splits.values())), "bytes": read_bytes, "limited": limited,
                  "seconds": time.process_time()}))
"""


def generate(form: str, rows: int, folder: Path) -> None:
    """Write a project and its data; every image differs from the others in one pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    tones = [("light", "dark", "")[row % 3] for row in range(rows)]
    if form == "npz":
        planes = np.ascontiguousarray(noise.transpose(2, 0, 1), np.float32)
        with zipfile.ZipFile(folder / "data.npz", "w") as archive:
            with archive.open("image.npy", "w", force_zip64=True) as stream:
                header = {"descr": "<f4", "fortran_order": False, "shape": (rows, *planes.shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                for row in range(rows):
                    planes[0, 0, 0] = row
                    stream.write(planes.tobytes())
            for name, values in {"label": np.arange(rows) % 2, "tone": np.array(tones)}.items():
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, values)
    else:
        (folder / "photos").mkdir()
        for row in range(rows):
            noise[0, 0, 0], noise[0, 0, 1] = divmod(row, 256)
            Image.fromarray(noise).save(folder / "photos" / f"{row}.bmp")
        lines = [f"{row}.bmp,{row % 2},{tone}\n" for row, tone in enumerate(tones)]
        (folder / "labels.csv").write_text("path,label,tone\n" + "".join(lines))
    (folder / "fairdeploy.yaml").write_text(CONFIG % (SIDE, SIDE, FORMATS[form] % json.dumps(SHARES)))


def measure(form: str, size_mb: int, limit_mb: int) -> dict[str, float | str]:
    """Generate a set of about some size and read it under the limit."""
    with tempfile.TemporaryDirectory() as name:
        generate(form, -(-(size_mb << 20) // ROW_BYTES[form]), Path(name))
        command = [sys.executable, "-c", CHILD, name, str(limit_mb)]
        ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{form}: {ended.stderr}")
    found = json.loads(ended.stdout)
    assert found["limited"], "the limit does not hold on this system"
    return {
        "format": form,
        "rows read": found["rows"],
        "inputs, MB": found["bytes"] >> 20,
        "may allocate, MB": limit_mb,
        "CPU seconds": round(found["seconds"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=3072, help="inputs of each set")
    parser.add_argument("--limit-mb", type=int, default=2048, help="what the process may allocate")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = [measure(form, given.size_mb, given.limit_mb) for form in FORMATS]
    text = f"{markdown(rows)}\n\n{machine()}\n"
    write("larger_than_memory", {"rows": rows, "machine": machine()}, text, folder=given.results)


if __name__ == "__main__":
    main()
