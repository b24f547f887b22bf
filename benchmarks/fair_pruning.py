"""What fair pruning is worth: ``python benchmarks/fair_pruning.py``.

Three tasks, seeds with families of their own, networks of a fifth and a tenth of the multiply-accumulates, short and
full fine-tuning, judged on 50,000 rows of families that nobody has seen. Rows are kept in
``results/fair_pruning.jsonl`` as they finish, and a run that is started again goes on. ``--second`` runs the other
baselines, 70 and 95 %; ``--ablations`` takes the parts of the method away one by one; ``--development`` is what
settings were chosen on (other seeds, hence other families in other splits).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import fair_tables
import numpy as np
import onnxruntime
import torch
from fair_arms import DENSE, Arm, Run, ablations, arms, others, timed
from fair_data import CACHE, Split, task
from fair_evaluate import records
from fair_plot import plot
from safetensors.torch import load_file, save_file
from tables import RESULTS, machine
from torch import nn

from fairdeploy.compaction import compact, count_macs, count_parameters
from fairdeploy.export import export_onnx
from fairdeploy.project import Budget
from fairdeploy.pruning import ByScore

SEEDS = (0, 1, 2)
DEVELOPMENT = (100, 101)
TASKS = ("kiosk", "presence", "adult")
SHORT, FULL = 2, 7
PAIRS = (
    ("bilevel", "magnitude"),
    ("bilevel", "control"),
    ("bilevel", "strong control"),
)


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
        """Return a dense network, and what it took beyond the one given."""
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


def go(run: Run, chosen: list[Arm], levels: list[float], schedules: list[int], store: fair_tables.Store) -> None:
    """Run arms that have no row yet."""
    sources = Sources(run)
    dense, seconds = sources.get("dense")
    said = scores(dense, run, run.data.evaluate)
    if not store.done(run.task.name, run.seed, "dense", 1.0, DENSE.epochs):
        facts = {"method": "dense", "keep": 1.0, "epochs": DENSE.epochs, "seconds": seconds}
        store.append([row(run, dense, said, **facts)])
    for keep in levels:
        for arm in chosen:
            wanted = [e for e in schedules if not store.done(run.task.name, run.seed, arm.name, keep, e)]
            if not wanted:
                continue
            source, source_s = sources.get(arm.source)
            budget = Budget(macs=keep) if arm.method != "bilevel" else limited(run, keep)
            (compacted, start), prune_s = timed(run.pruned, arm, source, budget)
            for epochs in wanted:
                trained, tune_s = timed(run.tuned, arm, compacted.trainable(), source, dense, epochs, start)
                facts = {"method": arm.name, "keep": keep, "epochs": epochs, "seconds": source_s + prune_s + tune_s}
                found = row(run, trained.module, said, **facts, stages=[source_s, prune_s, tune_s])
                found["widths"] = [after for _, after in compacted.removed.values()]
                if trained.fair is not None:
                    found["limits"] = [one.worst(trained.fair.rates) for one in trained.fair.constraints]
                store.append([found])
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
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--second", action="store_true", help="the other baselines, and 70 and 95 %%")
    kind.add_argument("--ablations", action="store_true", help="the method with one part less")
    kind.add_argument("--development", action="store_true", help="the seeds that settings were chosen on")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--keep", nargs="+", type=float, help="fractions of the multiply-accumulates")
    parser.add_argument("--tables", action="store_true", help="write the tables of the rows that there are")
    given = parser.parse_args()
    torch.set_num_threads(1)
    suffix = next((f"_{name}" for name in ("second", "ablations", "development") if getattr(given, name)), "")
    name = f"fair_pruning{suffix}"
    store = fair_tables.Store(RESULTS / f"{name}.jsonl")
    levels, schedules = [0.1, 0.2], [SHORT, FULL]
    if given.second:
        levels = [0.3, 0.2, 0.1, 0.05]
    if given.ablations:
        levels = [0.1]
    for one in () if given.tables else given.tasks:
        for seed in given.seeds or (DEVELOPMENT if given.development else SEEDS):
            run = Run(task(one), task(one).data(seed), seed)
            chosen = ablations(run.task) if given.ablations else arms(run.task)
            if given.second or given.development:
                chosen = {**chosen, **others(run.task), **ablations(run.task)} if given.arms else {**chosen}
            if given.second and not given.arms:
                chosen = {**chosen, **others(run.task)}
            picked = [arm for arm in chosen.values() if not given.arms or arm.name in given.arms]
            go(run, picked, given.keep or levels, schedules, store)
    rows = store.rows()
    text = f"# Fair pruning\n\n{machine()}\n\n" + fair_tables.report(rows, PAIRS)
    (RESULTS / f"{name}.md").write_text(text)
    for one in dict.fromkeys(found["task"] for found in rows):
        (RESULTS / f"{name}_{one}.svg").write_text(plot(rows, one))


if __name__ == "__main__":
    main()
