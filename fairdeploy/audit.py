"""An auditor's road: from a sealed bundle's tallies alone to every number and the verdict, without the vendor's help.

No project, data, model or code of the vendor is needed: the evidence is computed again from the tallies and scores and
compared with what was sealed, then the auditor's gates decide. The same bundle, gates and date give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from fairdeploy import __version__
from fairdeploy.bundle import Bundle, JudgedBundle, TargetBundle, load_build, load_bundle, load_evidence
from fairdeploy.errors import DataError, IntegrityError
from fairdeploy.evidence import Evidence, judge
from fairdeploy.evidence.records import EvidenceRecord, Latency, Reference
from fairdeploy.gates import GatesFile, Verdict, Waiver, gate, gate_across, read_gates

TAKEN_AS_SAID = (
    "target", "level", "level_reason", "level_mend", "fake_device", "artifact_digest", "spec_digest",
    "data_fingerprint", "reference_digests", "identical_to", "failure", "runtime", "requested_precision",
    "realised_precision", "size_bytes", "peak_memory_mb", "seed",
)  # fmt: skip
SHOWN = 5


@dataclass(frozen=True)
class _Audited:
    """A bundle whose numbers and verdict follow from its tallies."""

    bundle: Bundle
    evidence: Evidence


def audit(folder: Path, gates: Path, *, today: date) -> list[Verdict]:
    """Recompute what a bundle says from its tallies, and hold it against an auditor's gates.

    Parameters
    ----------
    folder : Path
        A target's bundle, a build's folder, or what ``fairdeploy judge --out`` wrote.
    gates : Path
        A gates file; only with the bundle's own gates.json the vendor's sealed waivers count, too.
    today : date
        What waivers are held against.

    Returns
    -------
    list of Verdict
        One per bundle; last the one over all targets, where the gates file asks for it.

    Raises
    ------
    ConfigError
        If the folder is no bundle, or the gates file is wrong.
    IntegrityError
        If a file was changed, or a number or the verdict does not follow from the tallies; what differs is named.
    """
    audited = [_checked(bundle) for bundle in _bundles(folder)]
    verdicts = []
    for one in audited:
        asked = _asked(one.bundle, gates)
        others = {other.bundle.manifest.target for other in audited} - {one.bundle.manifest.target}
        waivers = [waiver for waiver in asked.waivers if waiver.target not in others | {"*"}]
        if _are_sealed(gates, audited) and asked.gates.digest == one.bundle.gates.digest:
            waivers += _sealed_waivers(one.bundle.verdict)
        verdicts.append(gate(one.evidence, asked.gates, waivers=waivers, today=today))
    over = _asked(audited[0].bundle, gates)
    if over.across is not None:
        waivers = [waiver for waiver in over.waivers if waiver.target == "*"]
        everyone = [one.evidence for one in audited]
        verdicts.append(gate_across(everyone, over.across, waivers=waivers, today=today))
    return verdicts


def _bundles(folder: Path) -> Sequence[Bundle]:
    if (folder / "build.json").is_file():
        return load_build(folder)[1]
    return [load_bundle(folder)]


def _are_sealed(gates: Path, audited: Sequence[_Audited]) -> bool:
    """Whether the gates file is one of the audited bundles' own, not an auditor's that says the same."""
    return any(gates.samefile(one.bundle.folder / "gates.json") for one in audited)


def _asked(bundle: Bundle, gates: Path) -> GatesFile:
    references = set(bundle.evidence.tally_digests)
    lone: Reference | None = "reference" if references == {"reference"} else None
    many = len(_classes(bundle)) > 2
    return read_gates(gates, task="multiclass-classification" if many else "binary-classification", lone=lone)


def _classes(bundle: Bundle) -> Sequence[str]:
    if isinstance(bundle, TargetBundle):
        return bundle.spec.classes
    assert isinstance(bundle, JudgedBundle)
    return bundle.predictions.classes


def _checked(bundle: Bundle) -> _Audited:
    evidence = load_evidence(bundle)
    again = recompute(evidence)
    sealed, found = (one.model_dump(mode="json") for one in (bundle.evidence, again.record))
    different = list(_differences(sealed, found))
    if different:
        raise IntegrityError(
            f"{bundle.folder}: the evidence does not follow from its tallies (sealed by fairdeploy "
            f"{bundle.manifest.versions.get('fairdeploy', 'of unknown version')}, checked by {__version__}): "
            f"{'; '.join(different[:SHOWN])}{f'; and {len(different) - SHOWN} more' if different[SHOWN:] else ''}"
        )
    verdict = gate(evidence, bundle.gates, waivers=_sealed_waivers(bundle.verdict), today=_sealed_day(bundle.verdict))
    different = list(_differences(bundle.verdict.model_dump(mode="json"), verdict.model_dump(mode="json")))
    if different:
        raise IntegrityError(
            f"{bundle.folder}: the verdict does not follow from its evidence and gates: {'; '.join(different[:SHOWN])}"
        )
    return _Audited(bundle, evidence)


def recompute(evidence: Evidence) -> Evidence:
    """Judge the tallies and scores of some evidence again, taking from its record only what no tally can tell.

    Raises
    ------
    IntegrityError
        If the tallies cannot be of one artifact.
    """
    record = evidence.record
    facts: dict[str, Any] = {name: getattr(record, name) for name in TAKEN_AS_SAID}
    try:
        return judge(
            **facts,
            **_latencies(record),
            tallies=evidence.tallies,
            scores=evidence.scores,
            unpaired=evidence.unpaired,
            stages=evidence.stages,
        )
    except DataError as error:
        raise IntegrityError(f"{record.target}: the tallies are not of one artifact: {error}") from error


def _latencies(record: EvidenceRecord) -> dict[str, Any]:
    timed: list[Latency] = [*record.reference_latency.values(), *([record.latency] if record.latency else [])]
    if not timed:
        return {}
    return {
        "latencies_ms": None if record.latency is None else record.latency.samples_ms,
        "reference_latencies_ms": {name: one.samples_ms for name, one in record.reference_latency.items()},
        "threads": timed[-1].threads,
        "percentiles": [int(name.removeprefix("p")) for name in timed[-1].percentiles],
    }


def _sealed_waivers(verdict: Verdict) -> list[Waiver]:
    return [use.waiver for use in verdict.waivers]


def _sealed_day(verdict: Verdict) -> date | None:
    return verdict.waivers[0].judged_on if verdict.waivers else None


def _differences(sealed: Any, found: Any, at: str = "") -> Iterator[str]:
    """Yield where two plain documents differ; numbers that went through another machine's floats count as equal."""
    if isinstance(sealed, dict) and isinstance(found, dict):
        for key in sorted(sealed.keys() | found.keys()):
            yield from _differences(sealed.get(key), found.get(key), f"{at}.{key}".lstrip("."))
    elif isinstance(sealed, list) and isinstance(found, list) and len(sealed) == len(found):
        for index, (one, other) in enumerate(zip(sealed, found, strict=True)):
            yield from _differences(one, other, f"{at}[{index}]")
    elif isinstance(sealed, float) and isinstance(found, float) and math.isclose(sealed, found, abs_tol=1e-9):
        return
    elif sealed != found:
        yield f"{at} is {_short(sealed)}, but {_short(found)} follows"


def _short(value: Any) -> str:
    text = f"{len(value)} entries" if isinstance(value, list) else repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
