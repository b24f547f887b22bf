"""Lossless compaction on architectures with random weights: ``python benchmarks/zoo.py``.

Every network is masked in three styles and compacted:

- ``groups``: half the channels of each group closed, through the masks of `compact`;
- ``producers``: the same channels, but zeros only in the rows of the weights that make them: biases and norms stay, so
  that a closed channel holds a constant;
- ``unaligned``: 30 % of the rows, columns and entries of half the parameters, in no relation to the groups.

Each network has a child process of its own with a time limit, so that a crash ends nothing else. Needs the extra
``bench``, best installed beside a CPU torch without the dependencies it names, for they would bring CUDA::

    pip install --no-deps timm==1.0.31 torchvision==0.28.0 torch-pruning==1.6.1 huggingface_hub pyyaml safetensors

Writes ``results/zoo.json`` and ``results/zoo.md``; a failure is a row like any other.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import RESULTS, machine, write
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from zoo_models import ANCHORED, OTHERS, build, images, randomise
from zoo_peers import onnx, said, torch_pruning
from zoo_tables import text

import fairdeploy
from fairdeploy.compaction import ChannelGroup, channel_groups

NAMES = f"{ANCHORED} {OTHERS}".split()
STYLES = ("groups", "producers", "unaligned")
ROWS = 5
Closed = dict[str, np.ndarray[Any, np.dtype[np.bool_]]]


def half_open(groups: Sequence[ChannelGroup], rng: np.random.Generator) -> Closed:
    """Return masks that close half of each prunable group: of joint channels, half of every row."""
    masks: Closed = {}
    for group in groups:
        if group.prunable and group.size > 1:
            columns = (group.shape or (group.size,))[-1]
            rows = 1 if group.same_columns else group.size // columns
            order = rng.random((rows, columns)).argsort(1).argsort(1)
            masks[group.name] = np.resize(order >= columns // 2, group.size)
    return masks


def without_rows(model: nn.Module, groups: Sequence[ChannelGroup], masks: Closed) -> nn.Module:
    """Return a copy with zeros in the rows of the weights that make the closed channels, and nowhere else."""
    masked = copy.deepcopy(model)
    parameters = dict(masked.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for group in groups:
            keep = masks.get(group.name, np.ones(group.size, bool))
            for member in group.members:
                if member.dim == 0 and parameters[member.parameter].ndim > 1:
                    closed = [i for i, c in zip(member.indices, member.channels, strict=True) if not keep[c]]
                    parameters[member.parameter].index_fill_(0, torch.tensor(closed, dtype=torch.long), 0)
    return masked


def with_holes(model: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Return a copy with zeros in 30 % of the rows and columns of half the parameters."""
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in masked.parameters():
            for dim in range(min(parameter.ndim, 2)):
                if rng.random() < 0.5 and parameter.shape[dim] > 1:
                    gone = np.flatnonzero(rng.random(parameter.shape[dim]) < 0.3)
                    parameter.index_fill_(dim, torch.from_numpy(gone), 0)
    return masked


@contextmanager
def clocked(owner: Any, *names: str) -> Iterator[list[float]]:
    """Collect the CPU seconds spent in functions of `owner`."""
    spent: list[float] = []
    originals = {name: getattr(owner, name) for name in names}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent.append(time.process_time() - start)

        return run

    for name, function in originals.items():
        setattr(owner, name, timed(function))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(owner, name, function)


def sensitivity(model: nn.Module, rows: Tensor) -> float:
    """Return the largest change of an output when another row is fed, relative to the largest output."""
    with torch.no_grad():
        here, there = (pytree.tree_leaves(model(x)) for x in (rows, rows.roll(1, 0)))
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(here, there, strict=True))


def compacted(
    style: str, model: nn.Module, groups: Sequence[ChannelGroup], rows: Tensor, export: bool
) -> dict[str, Any]:
    """Mask a network in one style, compact it, and say what came out."""
    rng = np.random.default_rng(0)
    masks = half_open(groups, rng)
    asked = {name: int((~mask).sum()) for name, mask in masks.items()} if style != "unaligned" else {}
    given = {"groups": model, "producers": without_rows(model, groups, masks), "unaligned": with_holes(model, rng)}[
        style
    ]
    start = time.process_time()
    with clocked(torch.export, "export") as first, clocked(torch.export.ExportedProgram, "run_decompositions") as then:
        result = fairdeploy.compact(
            given, (rows[:2].float(),), masks if style == "groups" else None, check_inputs=(rows,)
        )
    seconds, exporting = time.process_time() - start, sum(first) + sum(then)
    gone = {name: before - after for name, (before, after) in result.removed.items()}
    missing = {name: count - gone.get(name, 0) for name, count in asked.items() if gone.get(name, 0) < count}
    record: dict[str, Any] = {
        "difference": result.proof.max_difference,
        "sensitivity": result.proof.sensitivity,
        "asked": sum(asked.values()),
        "removed": sum(gone.values()),
        "missing": {name: f"{n}: {result.kept_because.get(name, 'no reason given')}" for name, n in missing.items()},
        "unknown_ops": list(result.unknown_ops),
        "macs": [result.macs_before, result.macs_after],
        "export_s": exporting,
        "seconds": seconds - exporting,
        "not_own_class": result.not_own_class,
    }
    if export:
        record["onnx"] = onnx(result.graph_module, rows.float())
    return record


def failure(error: Exception) -> dict[str, str]:
    """Return an error in a line, with the last place of ours that it came through."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "/fairdeploy/" in f.filename]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return {"error": said(error), "place": place}


def study(name: str, styles: Sequence[str], *, peer: bool, export: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what was found out about one network, piece by piece."""
    torch.set_num_threads(1)
    model, shape = build(name)
    randomise(model, shape)
    rows = images(ROWS, shape, 1)
    yield (
        "network",
        {
            "shape": shape,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "sensitivity": sensitivity(copy.deepcopy(model).double(), rows),
        },
    )
    if peer:
        yield "peer", torch_pruning(model, rows[:1].float(), rows)
    try:
        groups = channel_groups(model, (rows[:2].float(),))
        wide = channel_groups(model, (rows[:2].float(),), wide_layer_norm=True) if peer else ()
    except Exception as error:  # a failure of ours is a finding
        yield "channels", failure(error)
        return
    yield (
        "channels",
        {
            "groups": sum(group.prunable for group in groups),
            "whole": sum(not group.prunable for group in groups),
            "groups_wide": sum(group.prunable for group in wide),
        },
    )
    for style in styles:
        try:
            yield style, compacted(style, model, groups, rows, export=export and style == styles[0])
        except Exception as error:
            yield style, failure(error)


def in_child(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Study one network in a child process and return what it told until it ended, and what it did not come through."""
    command = [sys.executable, __file__, "--child", "--only", name, "--styles", *given.styles]
    command += [f"--{flag}" for flag in ("peer", "export") if getattr(given, flag)]
    found: dict[str, Any] = {"name": name}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=given.limit_s, check=False)
        told, end = done.stdout, f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
    except subprocess.TimeoutExpired as expired:
        told, end = (expired.stdout or b"").decode(), f"not done within {given.limit_s} s"
    for line in told.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    at = next((part for part in ("network", "channels", *given.styles) if part not in found), None)
    if at is not None and "error" not in found.get("channels", {}):
        found[at] = {"error": end}
    return found


def progress(found: Mapping[str, Any], styles: Sequence[str]) -> str:
    """Return one line on one network."""
    parts = [found["network"].get("error", "")] + [found.get("channels", {}).get("error", "")]
    for style in styles:
        one = found.get(style, {})
        if "error" in one:
            parts.append(f"{style}: {one['error'][:200]} {one.get('place', '')}")
        elif one:
            parts.append(f"{style} {one['difference']:.0e}, {one['removed']}/{one['asked']}, {one['seconds']:.1f} s")
    return "; ".join(part for part in parts if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=NAMES, metavar="NAME", help="these networks; others keep the rows they have"
    )
    parser.add_argument("--styles", nargs="+", default=STYLES, choices=STYLES)
    parser.add_argument("--peer", action="store_true", help="Torch-Pruning beside")
    parser.add_argument("--export", action="store_true", help="ONNX Runtime beside PyTorch, in the first style")
    parser.add_argument("--jobs", type=int, default=1, help="networks at the same time, a thread each")
    parser.add_argument("--limit-s", type=float, default=900, help="wall time of one network")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    missing = [package for package in ("timm", "torchvision", "torch_pruning") if find_spec(package) is None]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; see --help")
    if given.child:
        for what, found in study(given.only[0], given.styles, peer=given.peer, export=given.export):
            print(json.dumps({what: found}), flush=True)
        return
    networks = known(given.results)
    with ThreadPoolExecutor(given.jobs) as pool:
        runs = {pool.submit(in_child, name, given): name for name in given.only}
        for count, run in enumerate(as_completed(runs), 1):
            networks[runs[run]] = run.result()
            print(
                f"{count}/{len(runs)} {runs[run]}: {progress(run.result(), given.styles)}", file=sys.stderr, flush=True
            )
            result = {
                "machine": machine(),
                "torch": torch.__version__,
                "styles": list(given.styles),
                "networks": [networks[name] for name in NAMES if name in networks],
            }
            write("zoo", result, text(result), folder=given.results)


def known(results: Path) -> dict[str, Any]:
    """Return the rows that stand already, by name: networks that are not asked for keep theirs."""
    path = results / "zoo.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["networks"] if path.exists() else []
    return {row["name"]: row for row in rows}


if __name__ == "__main__":
    main()
