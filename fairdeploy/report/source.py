"""What a report is about: a build with all its targets, or one bundle alone. Every format starts from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairdeploy.bundle import BuildRecord, Bundle, JudgedBundle, load_build, load_bundle
from fairdeploy.errors import ConfigError
from fairdeploy.gates import Verdict
from fairdeploy.project import CONFIG_NAME
from fairdeploy.records import digest
from fairdeploy.report import words


@dataclass(frozen=True)
class Source:
    """Records that are reported together.

    Attributes
    ----------
    bundles : sequence of Bundle
        One per target.
    build : BuildRecord or None
        What the targets share; None for a bundle alone, as `fairdeploy judge` writes one.
    config : Path
        The project's configuration file, from the root of its repository; what a gate's place starts from.
    """

    bundles: Sequence[Bundle]
    build: BuildRecord | None = None
    config: Path = Path(CONFIG_NAME)

    @property
    def title(self) -> str:
        """Name of the project, or of the one bundle's target."""
        return self.build.project if self.build else self.bundles[0].verdict.target

    @property
    def worst_first(self) -> list[Bundle]:
        """The bundles in the order of reading: what blocks a release first."""
        return sorted(self.bundles, key=lambda bundle: words.WORST_FIRST.index(bundle.verdict.status))

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the data, and how predictions that were made elsewhere were decided."""
        if self.build:
            return [self.build.data_note] if self.build.data_note else []
        judged = [bundle.predictions for bundle in self.bundles if isinstance(bundle, JudgedBundle)]
        return [note for one in judged for note in (f"Predictions were decided by {one.decision}.", *one.notes)]

    @property
    def across(self) -> Verdict | None:
        """The verdict over all targets, where the project asks for one."""
        return self.build.across if self.build else None

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdict of every target, and the one over all of them last."""
        return [bundle.verdict for bundle in self.bundles] + ([self.across] if self.across else [])

    @property
    def reading_order(self) -> list[Verdict]:
        """The verdict over all targets, then every target's, what blocks a release first."""
        return ([self.across] if self.across else []) + [bundle.verdict for bundle in self.worst_first]

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of all that is reported, as 64 hexadecimal digits."""
        parts = [bundle.manifest.digest for bundle in self.bundles] + [one.digest for one in self.verdicts]
        return digest([self.build.digest if self.build else None, *parts])


def load_source(folder: Path, *, config: Path = Path(CONFIG_NAME)) -> Source:
    """Read a build's folder or one bundle's, and check every digest.

    Parameters
    ----------
    folder, config : Path
        `config` is the project's configuration file, as in `Source`.

    Raises
    ------
    ConfigError
        If the folder is neither.
    IntegrityError
        If anything in it is not what was sealed.
    """
    if (folder / "manifest.json").is_file():
        return Source((load_bundle(folder),), config=config)
    if (folder / "build.json").is_file():
        build, bundles = load_build(folder)
        return Source(tuple(bundles), build, config)
    raise ConfigError(
        "neither a build nor a bundle: run 'fairdeploy build', or give a folder under build/", file=folder
    )
