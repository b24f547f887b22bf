"""Broken ONNX files through the runtimes: `python benchmarks/mutants.py`.

An exported network is mutated by a seed: bytes flipped, cut and moved; fields of the protobuf changed; graphs that do
not end or eat all memory; weights in files outside the folder. Each mutant goes the way of `verify --artifact`, with
every backend that runs here. It must end in a named error or in predictions, within the limits on time and memory,
and must never read a file outside its folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mutations import OUTSIDE, mutate
from tables import RESULTS, machine, markdown, write

from fairdeploy import backends
from fairdeploy.devices import HostDevice, Job
from fairdeploy.errors import BackendError, FairdeployError
from fairdeploy.export import check_single_file
from fairdeploy.model import ModelSpec
from fairdeploy.target import Measure
from fairdeploy.testing import write_network

BACKENDS = ("ort", "openvino")
TIMEOUT_S, MEMORY_MB = 8.0, 3072
TOLD_EVERY = 50
GRACE_S = 10.0  # for starting a process and for killing one, on a busy machine


def outcome(backend: str, file: Path, rows: Path, spec: ModelSpec, expected: Any) -> tuple[str, str]:
    """Run a mutant as `verify --artifact` does; how it ended, in a word, and what was said."""
    job = Job(backend, file, "fp32", spec, {"image": rows}, "predictions", Measure())
    try:
        check_single_file(file)
        found = HostDevice(timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB).run(job).probabilities
    except BackendError as error:
        said = str(error)
        for word, sign in (("stopped in time", "did not end in time"), ("its process died", "was killed by SIG")):
            if sign in said:
                return word, said
        return "refused", said
    except FairdeployError as error:
        return "refused", str(error)
    except Exception as error:
        return "unexpected error", f"{type(error).__name__}: {error}"
    return ("same predictions" if np.array_equal(found, expected) else "other predictions"), ""


WAYS = ("refused", "its process died", "stopped in time", "same predictions", "other predictions")


def run(count: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Run mutants through the backends and count how they ended; yield what was found now and then, and at the end."""
    inner = folder / "artifact"
    inner.mkdir()
    spec = write_network(inner / "whole.onnx")
    original = (inner / "whole.onnx").read_bytes()
    secret, rows = folder / "secret.bin", folder / "rows.npy"
    secret.write_bytes(np.random.default_rng(seed).standard_normal(20_000).astype(np.float32).tobytes())
    (inner / "link.bin").symlink_to(secret)
    np.save(rows, np.random.default_rng(seed).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8))
    device = HostDevice()
    whole = [
        Job(name, inner / "whole.onnx", "fp32", spec, {"image": rows}, "predictions", Measure()) for name in BACKENDS
    ]
    expected = {job.backend: device.run(job).probabilities for job in whole}
    ended: Counter[tuple[str, str]] = Counter()
    by_kind: dict[str, Counter[str]] = {}
    problems, words, longest_s = [], {}, 0.0
    for number in range(count):
        kind, data = mutate(original, number, seed, secret)
        file = inner / f"mutant{number}.onnx"
        file.write_bytes(data)
        for backend in BACKENDS:
            started = time.monotonic()
            how, said = outcome(backend, file, rows, spec, expected[backend])
            took_s = time.monotonic() - started
            longest_s = max(longest_s, took_s)
            ended[backend, how] += 1
            by_kind.setdefault(kind, Counter())[how] += 1
            words.setdefault(f"{backend}: {how}", said[:300])
            named = how in WAYS and (bool(said) or how.endswith("predictions"))
            if not named or took_s > TIMEOUT_S + GRACE_S or (kind in OUTSIDE and how != "refused"):
                problems.append({"mutant": number, "kind": kind, "backend": backend, "how": how, "said": said[:500]})
        file.unlink()
        if (number + 1) % TOLD_EVERY == 0 or number + 1 == count:
            yield {
                "mutants": number + 1,
                "seed": seed,
                "versions": {name: backends.load(name).capability().version for name in BACKENDS},
                "limits": {"timeout_s": TIMEOUT_S, "memory_mb": MEMORY_MB},
                "longest_s": round(longest_s, 1),
                "problems": problems,
                "words": words,
                "rows": [{"backend": name, **{how: ended[name, how] for how in WAYS}} for name in BACKENDS],
                "kinds": [{"mutation": kind, **{how: found[how] for how in WAYS}} for kind, found in by_kind.items()],
            }


def text_of(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    kinds = [{**row, "mutation": row["mutation"].replace("_", " ")} for row in found["kinds"]]
    return (
        "# Broken ONNX files\n\n"
        f"{machine()}; {versions}; seed {found['seed']}. {found['mutants']} mutants of an ONNX file, each with every "
        f"backend, within {found['limits']['timeout_s']:g} s and {found['limits']['memory_mb']} MiB of address space; "
        f"the longest took {found['longest_s']} s. The process that asked lives on after every one of them.\n\n"
        f"Without a named end, beyond the time, or reading a file outside its folder: {len(found['problems'])}.\n\n"
        + markdown(found["rows"])
        + "\n\nBy mutation, both backends together:\n\n"
        + markdown(kinds)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for found in run(options.mutants, options.seed, Path(folder)):
            write("mutants", found, text_of(found), folder=options.results)


if __name__ == "__main__":
    main()
