"""A build's predictions of the evaluate split at every stage, read from the store. Nothing is run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairdeploy import backends
from fairdeploy.bundle import BuildRecord, TargetBundle
from fairdeploy.data import StoredSplit
from fairdeploy.errors import StageError, TargetError
from fairdeploy.evidence.records import StageName
from fairdeploy.line import Line
from fairdeploy.measure import Predictions
from fairdeploy.project import CONFIG_NAME, Budget
from fairdeploy.store import NotKept


@dataclass(frozen=True)
class StoredStages:
    """What the store has of one target.

    Attributes
    ----------
    evaluate : StoredSplit
    stages : mapping of stage name to Predictions
        In the order of the line; those of the target are missing where it failed.
    simulated : bool
        Whether ``runtime`` is another runtime in the place of the target's.
    """

    evaluate: StoredSplit
    stages: Mapping[StageName, Predictions]
    simulated: bool


def read_stages(line: Line, build: BuildRecord, bundle: TargetBundle) -> StoredStages:
    """Walk down the line over the store, which must be dry, to one target of a build.

    Raises
    ------
    StageError
        If the store no longer has what the build made, or has what other files or settings made since.
    """
    again = command(line, "build", "-t", bundle.target.id)
    try:
        found = _walk(line, build, bundle)
    except NotKept as error:
        raise StageError(
            f"the store no longer has {error.label} of build {build.build_id} ({error.why}): run '{again}', "
            "then explain"
        ) from None
    except TargetError as error:
        raise StageError(f"{bundle.target.id} can no longer be read ({error}): run '{again}', then explain") from None
    if not _is_of(bundle, found, line):
        raise StageError(
            f"the store's predictions are not those of build {build.build_id}: data, network or device changed since; "
            f"run '{again}', then explain"
        )
    return found


def _walk(line: Line, build: BuildRecord, bundle: TargetBundle) -> StoredStages:
    splits = line.splits()
    networks = line.networks(splits)
    chosen = next(one for one in build.candidates if one.chosen)
    candidate = networks.candidate(Budget(**chosen.keep)) if chosen.keep else networks.unpruned()
    deployment = line.deployment(splits, networks, candidate)
    if bundle.evidence.failure is not None:
        return StoredStages(splits["evaluate"], deployment.stages, simulated=False)
    backend = backends.load(bundle.target.runtime.backend)
    artifact = deployment.compile(bundle.target, backend)
    served = deployment.served(artifact, backend, line.devices.get(bundle.target.id))
    stages = deployment.predict(bundle.target, artifact, served)
    return StoredStages(splits["evaluate"], stages, served.simulated)


def _is_of(bundle: TargetBundle, found: StoredStages, line: Line) -> bool:
    """Whether counting these predictions gives the very tallies that the build was judged on."""
    evidence = bundle.evidence
    if found.evaluate.fingerprint != evidence.data_fingerprint or line.project.spec.digest != evidence.spec_digest:
        return False
    references: dict[str, StageName] = {"dense": "dense", "compact": "exported"}
    return all(
        line.meter.tally(found.evaluate, found.stages[references[name]], found.stages["runtime"]).digest == known
        for name, known in evidence.tally_digests.items()
    )


def command(line: Line, verb: str, *arguments: str) -> str:
    """Return a command on a line's project, as it is typed."""
    place = ["-C", str(line.folder)] if line.folder != Path(".") else []
    config = ["-c", line.config] if line.config != CONFIG_NAME else []
    return shlex.join(["fairdeploy", verb, *place, *config, *arguments])
