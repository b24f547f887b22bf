"""What to try, each with the fact that speaks for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fairdeploy import backends
from fairdeploy.bundle import BuildRecord, TargetBundle
from fairdeploy.evidence import words
from fairdeploy.evidence.metrics import GAPS
from fairdeploy.evidence.records import Group
from fairdeploy.explain.flips import Flips
from fairdeploy.explain.records import Advice
from fairdeploy.explain.stored import command
from fairdeploy.gates import CellVerdict
from fairdeploy.line import Line
from fairdeploy.project import Project
from fairdeploy.target import shipped

WORTH_NAMING = 0.2  # a stage with at least this share of the harmful flips gets advice


@dataclass(frozen=True)
class Facts:
    """Everything that advice is drawn from."""

    line: Line
    build: BuildRecord
    bundle: TargetBundle
    cell: CellVerdict
    simulated: bool

    @property
    def project(self) -> Project:
        """The project that was built."""
        return self.line.project

    def command(self, verb: str, *arguments: str) -> str:
        """Return a command on this project, as it is typed."""
        return command(self.line, verb, *arguments)

    def share_of(self, split: str) -> str:
        """Say how many rows the cell's group has in a split, as in "; skin tone VI has 80 of 1000 rows in train"."""
        counts = [one for one in self.build.group_counts if one.split == split]
        wanted = [one for one in counts if self.cell.group.get(one.attribute) == one.level]
        said = []
        for one in wanted:
            total = sum(other.rows for other in counts if other.attribute == one.attribute)
            group: Group = {one.attribute: one.level}
            said.append(
                f"{words(group)} has {one.rows:,} of {total:,} rows in {split} ({100 * one.rows / total:.1f} %)"
            )
        return "; " + ", ".join(said) if said else ""


def advice(facts: Facts, flips: Flips | None) -> tuple[Advice, ...]:
    """Return what to try, the likeliest first; `flips` is None where the target failed. A cell that passes needs none.

    A stage is named where it holds a fair part of the harmful flips, and only if they outweigh those that go the other
    way: where as many were gained as lost there is nothing to mend but the number of rows.
    """
    if flips is None:
        text = "The target gave no predictions. Mend what its last words say, then build again."
        return (Advice(text=text, command=facts.command("doctor", "-t", facts.bundle.target.id)),)
    found = list(_of_level(facts))
    if "pass" in (facts.cell.status, facts.cell.forecast):
        return tuple(found)
    harmful = int(flips.harmful.sum())
    if facts.cell.metric in GAPS or 2 * harmful > flips.flipped.sum():
        stages = [name for name, n in flips.harmful_at().items() if n >= WORTH_NAMING * harmful]
        if "pruned" in stages or "exported" in stages:
            found += _of_pruning(facts)
        found += [one for name in stages if name in _BY_STAGE for one in _BY_STAGE[name](facts)]
    absolute = facts.cell.condition in ("min", "max") and flips.counting.harm != "any"
    if absolute and flips.wrong_before > harmful:
        text = (
            f"{flips.wrong_before:,} rows were wrong in the {flips.counting.before} network already, {harmful:,} "
            f"became wrong after it: train the dense network better for this group{facts.share_of('train')}."
        )
        found.append(Advice(text=text))
    return (*found, *_of_rows(facts))


def _of_level(facts: Facts) -> Iterator[Advice]:
    if facts.cell.forecast is not None:
        mend = facts.bundle.evidence.level_mend or "run the build on the target hardware itself"
        yield Advice(
            text=f"It is {facts.cell.status} because it was measured at level {facts.bundle.evidence.level}: {mend}.",
            command=facts.command("doctor", "-t", facts.bundle.target.id),
        )


def _of_pruning(facts: Facts) -> Iterator[Advice]:
    prune, candidates = facts.project.prune, facts.build.candidates
    if prune.keep is None:
        return
    chosen = next(one for one in candidates if one.chosen)
    larger = sorted((one for one in candidates if one.macs > chosen.macs), key=lambda one: one.macs)
    known = f"; this build has {', '.join(one.name for one in larger)} too" if larger else ""
    kept = " and ".join(f"prune.keep.{name} is {fraction:g}" for name, fraction in chosen.keep.items())
    yield Advice(text=f"Prune less: {kept}{known}.")
    recover = prune.recover
    yield Advice(
        text=f"Recover longer: prune.recover.epochs is {recover.epochs}{facts.share_of('train')}.",
    )
    if recover.sampling == "natural":
        yield Advice(
            text="Recover on a balanced sample: prune.recover.sampling is natural; balanced draws every group and "
            "label equally often.",
        )


def _of_compaction(facts: Facts) -> Iterator[Advice]:
    yield Advice(
        text="Removing channels that are switched off changes nothing in float64, so a flip here is a tie at the "
        "decision in float32: look at the trace of such a row."
    )


def _of_quantisation(facts: Facts) -> Iterator[Advice]:
    target = facts.bundle.target
    recipe = target.quantization.calibration
    folders = (shipped("calibration"), facts.line.folder / "calibration")
    others = sorted({file.stem for place in folders for file in place.glob("*.yaml")} - {recipe})
    choices = f" (there are also {', '.join(others)}, or a file of your own under calibration/)" if others else ""
    yield Advice(
        text=f"Calibrate otherwise: quantization.calibration of {target.id} is {recipe}{choices}"
        f"{facts.share_of('calibrate')}.",
    )
    if backends.load(target.runtime.backend).dialect.weights == "s8-per-tensor":
        yield Advice(
            text=f"{target.runtime.backend} has one weight scale per tensor, which costs channels of small weights: "
            "a backend with one per channel keeps them."
        )
    yield Advice(
        text="Keep precision: fp16 or fp32 instead of int8, or the first and the last layer in fp32 in a file that "
        "you quantise yourself and judge by 'fairdeploy verify'.",
    )


def _of_runtime(facts: Facts) -> Iterator[Advice]:
    evidence, runtime = facts.bundle.evidence, facts.bundle.evidence.runtime
    layers = ", ".join(f"{name} × {n}" for name, n in sorted(evidence.realised_precision.items())) or "nothing known"
    name = " ".join(filter(None, (runtime.get("name"), runtime.get("version"))))
    yield Advice(
        text=f"Look at the precision in which {name or 'the runtime'} really ran: {layers}; "
        f"{evidence.requested_precision} was asked for. Layers in another precision, or hints that allow one, change "
        "predictions.",
        command=facts.command("compare"),
    )
    if facts.simulated:
        yield Advice(text="It was simulated by another runtime: measure on the target before anything is changed.")


def _of_rows(facts: Facts) -> Iterator[Advice]:
    cell = facts.cell
    if cell.status == "undefined":
        yield Advice(
            text=f"{words(cell.group)[0].upper()}{words(cell.group)[1:]} has no row that counts here: "
            "add some to evaluate.",
            command=facts.command("plan"),
        )
    elif cell.rows_needed is not None and (cell.n is None or cell.n < cell.rows_needed):
        missing = cell.rows_needed - (cell.n or 0)
        yield Advice(
            text=f"Add {missing:,} rows of {words(cell.group)} to evaluate ({cell.n or 0:,} are there, about "
            f"{cell.rows_needed:,} are needed), from new clusters: people or drawings that are not in it yet.",
            command=facts.command("plan"),
        )


_BY_STAGE = {"compact": _of_compaction, "quantised": _of_quantisation, "runtime": _of_runtime}
