"""What fair pruning is worth: ``python benchmarks/fair_pruning.py``.

Three tasks, seeds with families of their own, networks of a fifth and a tenth of the multiply-accumulates, short and
full fine-tuning, judged on 50,000 rows of families that nobody has seen. Rows are kept in
``results/fair_pruning.jsonl`` as they finish, and a run that is started again goes on. ``--second`` runs the other
baselines, 70 and 95 %; ``--ablations`` takes the parts of the method away one by one; ``--replication`` asks the
primary question again with five seeds that nothing was chosen or seen on; ``--development`` is what settings were
chosen on. Other seeds deal other families to the splits.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from fair_arms import DENSE_TRAINING, Arm, Run, ablations, arms, others, timed
from fair_data import CACHE, Split, Task, task
from fair_evaluate import records
from fair_plot import plot
from fair_tables import DENSE, Rows, Store, report, settings
from safetensors.torch import load_file, save_file
from tables import RESULTS, machine
from torch import nn

from fairdeploy.compaction import compact, count_macs, count_parameters
from fairdeploy.export import export_onnx
from fairdeploy.project import Budget
from fairdeploy.pruning import ByScore

TASKS = ("kiosk", "presence", "adult")
SHORT, FULL = 2, 7
AGAINST = ("magnitude", "control", "strong control")


@dataclass(frozen=True)
class Kind:
    """One of the benchmark's runs: its rows and tables are named after it.

    Attributes
    ----------
    name : str
    levels : tuple of float
        Fractions of the multiply-accumulates.
    chosen : callable
        ``chosen(task) -> dict`` of arms by name.
    seeds : tuple of int
    tasks : tuple of str
    """

    name: str
    levels: tuple[float, ...]
    chosen: Callable[[Task], dict[str, Arm]]
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] = TASKS


def _asked_again(task: Task) -> dict[str, Arm]:
    return {name: arm for name, arm in arms(task).items() if name in (*AGAINST, "bilevel")}


MAIN = Kind("fair_pruning", (0.1, 0.2), arms)
KINDS = {
    "second": Kind("fair_pruning_second", (0.3, 0.2, 0.1, 0.05), lambda task: arms(task) | others(task)),
    "ablations": Kind("fair_pruning_ablations", (0.1,), ablations),
    "replication": Kind("fair_pruning_replication", (0.1,), _asked_again, (3, 4, 5, 6, 7), ("kiosk",)),
    "development": Kind("fair_pruning_development", (0.1, 0.2), arms, (100, 101)),
}


def scores(network: nn.Module, run: Run, split: Split) -> Any:
    """Return the probability of class 1 [n]."""
    found = []
    with torch.no_grad():
        for start in range(0, len(split), 1000):
            rows = run.task.feed(split.inputs[start : start + 1000])
            found.append(network(rows).softmax(1)[:, 1].numpy())
    return np.concatenate(found)


def latency_ms(network: nn.Module, run: Run) -> float:
    """Return the median milliseconds of one row in ONNX Runtime, on one core."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        rows = {"x": run.example[:8].numpy()}
        export_onnx(network, {"x": run.example[:8]}, file, spec=run.spec, check_inputs=rows)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        one, times = {session.get_inputs()[0].name: rows["x"][:1]}, []
        for _ in range(2000):
            began = time.perf_counter()
            session.run(None, one)
            times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


class Sources:
    """The dense networks of one seed, kept between runs with the seconds that they took."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.folder = CACHE / f"networks-{run.task.name}-{run.seed}"
        self._held: dict[str, tuple[nn.Module, float]] = {}

    def get(self, kind: Any) -> tuple[nn.Module, float]:
        """Return a dense network, and the seconds that its own training took."""
        if kind not in self._held:
            file, run = self.folder / f"{kind}.safetensors", self.run
            if file.exists():
                network = run.task.build()
                held = load_file(file)
                seconds = float(held.pop("seconds"))
                network.load_state_dict(held)
                self._held[kind] = network.eval(), seconds
            else:
                found = timed(run.dense) if kind == "dense" else timed(run.source, self.get("dense")[0], kind)
                self.folder.mkdir(parents=True, exist_ok=True)
                state = {**found[0].state_dict(), "seconds": torch.tensor(found[1])}
                save_file(state, file.with_suffix(".part"))
                os.replace(file.with_suffix(".part"), file)
                self._held[kind] = found
        return self._held[kind]


def row(run: Run, network: nn.Module, dense: Any, **facts: Any) -> dict[str, Any]:
    """Return one network's row: what it is, what it costs, and what it does on evaluate."""
    evaluate = run.data.evaluate
    judged = records({"dense": dense, "network": scores(network, run, evaluate)}, evaluate, run.task, dense="dense")
    return {
        "task": run.task.name,
        "seed": run.seed,
        **facts,
        "macs": count_macs(network, (run.example,)),
        "parameters": count_parameters(network),
        "latency_ms": latency_ms(network, run),
        **judged["network"],
    }


def go(run: Run, chosen: list[Arm], levels: Sequence[float], stores: Sequence[Store]) -> None:
    """Run arms that have no row yet in any of the stores; the first takes the rows."""
    sources = Sources(run)
    dense, seconds = sources.get("dense")
    said = scores(dense, run, run.data.evaluate)

    def missing(name: str, keep: float, epochs: int) -> bool:
        return not any(one.done(run.task.name, run.seed, name, keep, epochs) for one in stores)

    if missing(DENSE, 1.0, DENSE_TRAINING.epochs):
        facts = {"method": DENSE, "keep": 1.0, "epochs": DENSE_TRAINING.epochs, "seconds": seconds}
        stores[0].append([row(run, dense, said, **facts)])
    for keep in levels:
        for arm in chosen:
            wanted = [epochs for epochs in (SHORT, FULL) if missing(arm.name, keep, epochs)]
            if not wanted:
                continue
            source, source_s = sources.get(arm.source)
            if arm.source == "dense":
                source_s = 0.0  # everybody's begins with it
            budget = Budget(macs=keep) if arm.method != "bilevel" else limited(run, keep)
            (compacted, start), prune_s = timed(run.pruned, arm, source, budget)
            for epochs in wanted:
                trained, tune_s = timed(run.tuned, arm, compacted.trainable(), source, dense, epochs, start)
                facts = {"method": arm.name, "keep": keep, "epochs": epochs, "seconds": source_s + prune_s + tune_s}
                found = row(run, trained.module, said, **facts, stages=[source_s, prune_s, tune_s])
                found["widths"] = [after for _, after in compacted.removed.values()]
                if trained.fair is not None:
                    found["limits"] = [one.worst(trained.fair.rates) for one in trained.fair.constraints]
                stores[0].append([found])
                print(told(found), flush=True)


def limited(run: Run, keep: float) -> Budget:
    """Return the budget of a method that moves widths: no more parameters than even widths have, either."""
    network = run.task.build().eval()
    (even,) = ByScore("magnitude", round_to=1).prune(
        network, (run.example,), budgets=[Budget(macs=keep)], problem=None, seed=0
    )
    found = compact(network, (run.example,), even.masks)
    return Budget(macs=keep, parameters=found.parameters_after / found.parameters_before)


def told(found: dict[str, Any]) -> str:
    shown = ("accuracy", "worst_group_accuracy", "worst_true_positive_rate", "equalized_odds_difference")
    values = "  ".join(f"{name} {100 * found[name]:.1f}" for name in shown if name in found)
    key = f"{found['task']} {found['seed']} {found['method']}, {found['keep']:g} kept, {found['epochs']} epochs"
    return f"{key}: {values}  parameters {found['parameters']}  {found['seconds']:.0f} s {found['widths']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--second", action="store_true", help="the other baselines, and 70 and 95 %%")
    kinds.add_argument("--ablations", action="store_true", help="the method with one part less")
    kinds.add_argument("--replication", action="store_true", help="the primary question again, with five new seeds")
    kinds.add_argument("--development", action="store_true", help="the seeds that settings were chosen on")
    parser.add_argument("--tasks", nargs="+", choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--keep", nargs="+", type=float, help="fractions of the multiply-accumulates")
    parser.add_argument("--tables", action="store_true", help="write the tables of the rows that there are")
    given = parser.parse_args()
    torch.set_num_threads(1)
    kind = next((one for name, one in KINDS.items() if getattr(given, name)), MAIN)
    names = dict.fromkeys([kind.name, MAIN.name] if kind.seeds == MAIN.seeds else [kind.name])
    stores = [Store(RESULTS / f"{name}.jsonl") for name in names]
    for one in () if given.tables else given.tasks or kind.tasks:
        for seed in given.seeds or kind.seeds:
            run = Run(task(one), task(one).data(seed), seed)
            picked = [arm for arm in kind.chosen(run.task).values() if not given.arms or arm.name in given.arms]
            go(run, picked, given.keep or kind.levels, stores)
    write(kind, *(store.rows() for store in stores))


def write(kind: Kind, rows: Rows, main: Rows = ()) -> None:
    """Write the tables and plots of a kind's rows, beside those of the main run at the same settings."""
    wanted = settings(rows)
    beside = [one for one in main if one["method"] == DENSE or (one["task"], one["keep"], one["epochs"]) in wanted]
    own = dict.fromkeys(one["method"] for one in rows if one["method"] not in (DENSE, "bilevel"))
    pairs = [("bilevel", name) for name in own if main or name in AGAINST]
    text = f"# Fair pruning\n\n{machine()}\n\n" + report([*beside, *rows], pairs)
    (RESULTS / f"{kind.name}.md").write_text(text)
    for one in dict.fromkeys(found["task"] for found in rows):
        (RESULTS / f"{kind.name}_{one}.svg").write_text(plot([*beside, *rows], one))


if __name__ == "__main__":
    main()
