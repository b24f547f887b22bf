"""`Project`: the parsed ``fairdeploy.yaml``. Unknown keys are refused with line and column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from fairdeploy import CONFIG_NAME as CONFIG_NAME
from fairdeploy import yamlfile
from fairdeploy.errors import ConfigError, StageError
from fairdeploy.model import Decision, InputName, ModelSpec, Preprocess, Task, TensorSpec
from fairdeploy.records import Record
from fairdeploy.source import DataSource, ImportString
from fairdeploy.target import ALIASES, ID_PATTERN, Target, resolve_target
from fairdeploy.yamlfile import Document, KeyPath

MOST_LEVELS = 500  # of an attribute or a context; what has more is an id


def _not_reserved(name: str) -> str:
    if name == "references":
        raise ValueError("'references' is a folder of every build: choose another id")
    return name


Fraction = Annotated[float, Field(gt=0, le=1)]
Method = Literal[
    "none", "bilevel", "magnitude", "l1", "batch-norm-scale", "fpgm", "taylor", "fisher", "fairgrape", "random"
]

TargetId = Annotated[str, Field(pattern=ID_PATTERN), AfterValidator(_not_reserved)]


class ModelSource(Record):
    """Where the dense network comes from, and its `ModelSpec` fields."""

    import_: ImportString = Field(alias="import")
    weights: Path
    inputs: dict[InputName, TensorSpec] = Field(min_length=1)
    preprocess: Preprocess = Preprocess()
    output: Literal["logits", "probabilities"] = "logits"
    classes: tuple[str, ...] = ("negative", "positive")
    decision: Decision = Decision()


class Groups(Record):
    """The declared groups: sensitive attributes with their levels, contexts, and the cluster column.

    A missing attribute value is the level ``unknown``; a declared level without rows is listed with n = 0.
    """

    attributes: dict[str, tuple[str, ...]] = Field(min_length=1)
    contexts: tuple[str, ...] = ()
    cluster: str | None = None

    @field_validator("attributes")
    @classmethod
    def _levels_are_usable(cls, attributes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, levels in attributes.items():
            if len(levels) < 2 or len(set(levels)) != len(levels) or "unknown" in levels:
                raise ValueError(f"{name}: declare at least two different levels; 'unknown' is added by itself")
            if len(levels) > MOST_LEVELS:
                raise ValueError(
                    f"{name} has {len(levels)} levels, at most {MOST_LEVELS} can be compared: join them to coarser ones"
                )
        return attributes


@dataclass(frozen=True)
class Budget:
    """What a smaller network may cost, as fractions in (0, 1] of the dense one; of several the tightest decides.

    Attributes
    ----------
    macs : float, optional
        Multiply-accumulates for one row of input.
    parameters : float, optional
    size : float, optional
        Bytes of parameters and buffers.
    latency : float, optional
        As measured on this host.

    Raises
    ------
    StageError
        If nothing is limited, or a fraction is outside its range.
    """

    macs: float | None = None
    parameters: float | None = None
    size: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            raise StageError(f"a budget limits nothing: give {_one_of(vars(self))}")
        for name, fraction in self.limits.items():
            if not 0 < fraction <= 1:
                raise StageError(f"prune.keep.{name} must be in (0, 1], not {fraction}")

    @property
    def limits(self) -> dict[str, float]:
        """What is limited, by name, in the order above."""
        return {name: fraction for name, fraction in vars(self).items() if fraction is not None}

    @property
    def name(self) -> str:
        """What its candidate is called, as in ``macs-0.25-latency-0.5``."""
        return "-".join(f"{name}-{fraction:g}" for name, fraction in self.limits.items())


class Keep(Record):
    """What is kept of the dense network's costs, see `Budget`; lists make one candidate per level.

    Several lists are equally long; a single number goes with every level.
    """

    macs: tuple[Fraction, ...] = Field(default=(), min_length=1)
    parameters: tuple[Fraction, ...] = Field(default=(), min_length=1)
    size: tuple[Fraction, ...] = Field(default=(), min_length=1)
    latency: tuple[Fraction, ...] = Field(default=(), min_length=1)

    @field_validator(
        "*", mode="before", json_schema_input_type=Fraction | Annotated[tuple[Fraction, ...], Field(min_length=1)]
    )
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _levels_go_together(self) -> Keep:
        given = {name: values for name, values in vars(self).items() if values}
        if not given:
            raise ValueError(f"give {_one_of(vars(self))}")
        lists = {name: values for name, values in given.items() if len(values) > 1}
        if len({len(values) for values in lists.values()}) > 1:
            said = ", ".join(f"{name} has {len(values)}" for name, values in lists.items())
            raise ValueError(f"{said} levels: give equally many, or a single number that goes with every level")
        names = [level.name for level in self.levels]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the level {twice} is given twice: leave one out")
        return self

    @property
    def levels(self) -> tuple[Budget, ...]:
        """The budget of each candidate."""
        given = {name: values for name, values in vars(self).items() if values}
        count = max(len(values) for values in given.values())
        return tuple(
            Budget(**{name: values[0 if len(values) == 1 else level] for name, values in given.items()})
            for level in range(count)
        )


def _one_of(names: Iterable[str]) -> str:
    *others, last = names
    return f"at least one of {', '.join(others)} and {last}"


class Recover(Record):
    """Fine-tuning after removal: AdamW with a one-cycle rate.

    ``sampling: balanced`` draws every group x label cell equally often. ``splits`` are what the pruned network learns
    from. ``distillation`` is the share that the distance from the teacher has in the loss, where there is a teacher.
    ``concentration`` is how strongly channels are discouraged that one group alone depends on, added to the loss as
    this many times a penalty in [0, 1]; each step then costs eight more passes.
    ``augment`` names a callable of the user's that takes a batch of raw inputs by name and a `numpy.random.Generator`
    and returns the batch to train on.
    """

    epochs: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=2e-3, gt=0)
    batch_size: int = Field(default=128, ge=1)
    sampling: Literal["natural", "balanced"] = "natural"
    splits: tuple[Literal["train", "prune"], ...] = ("train",)
    distillation: Annotated[float, Field(ge=0, lt=1)] = 0.5
    concentration: float = Field(default=0.0, ge=0)
    augment: ImportString | None = None


class Constraints(Record):
    """Limits on what pruning may do to groups of people, as fractions; names are fairlearn's where it has them.

    Attributes
    ----------
    equalized_odds_difference : float, optional
        Largest difference between groups in the recall of a class: true and false positive rates of two classes; the
        hit rate where there is one.
    equal_opportunity_difference : float, optional
        In the true positive rate alone.
    demographic_parity_difference : float, optional
        In the selection rate.
    accuracy_difference : float, optional
    accuracy_drop : float, optional
        Accuracy that a group may lose against the dense network, so that nobody is levelled down.
    excess_drop : float, optional
        Accuracy that a group may lose beyond what everybody loses (Zhang et al., "Balancing Act", ICLR 2024).
    worst_group_error : float, optional
        Share of a group that may be predicted wrong, whatever the dense network does: one minus the accuracy that
        every group must have.
    attributes : tuple of str, optional
        The declared attributes whose groups they are about; all of them by default.
    intersections : bool
        Whether they are about the groups of all these attributes together, too.
    """

    equalized_odds_difference: Fraction | None = None
    equal_opportunity_difference: Fraction | None = None
    demographic_parity_difference: Fraction | None = None
    accuracy_difference: Fraction | None = None
    accuracy_drop: Fraction | None = None
    excess_drop: Fraction | None = None
    worst_group_error: Fraction | None = None
    attributes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    intersections: bool = Field(default=False, strict=True)

    @property
    def limits(self) -> dict[str, float]:
        """What is limited, by name."""
        scope = ("attributes", "intersections")
        return {name: value for name, value in vars(self).items() if name not in scope and value is not None}

    @model_validator(mode="after")
    def _something_is_limited(self) -> Constraints:
        if not self.limits:
            names = [name for name in type(self).model_fields if name not in ("attributes", "intersections")]
            raise ValueError(f"give at least one limit: {', '.join(names)}")
        if self.intersections and self.attributes is not None and len(set(self.attributes)) < 2:
            raise ValueError("intersections are of two attributes or more: name another, or leave them out")
        return self

    def of(self, declared: Iterable[str]) -> tuple[str, ...]:
        """Return the attributes that are constrained, of those declared.

        Raises
        ------
        StageError
            If one is not declared, none is, or intersections have fewer than two; says which are known.
        """
        known = tuple(declared)
        chosen = known if self.attributes is None else tuple(dict.fromkeys(self.attributes))
        unknown = [name for name in chosen if name not in known]
        if unknown or not chosen:
            what = f"no attribute '{unknown[0]}' is declared" if unknown else "no attributes are declared"
            raise StageError(
                f"prune.constraints.attributes: {what} under groups; declared: {', '.join(known) or 'none'}"
            )
        if self.intersections and len(chosen) < 2:
            raise StageError(
                f"prune.constraints.intersections: there is only {chosen[0]}; declare another attribute, or leave "
                "intersections out"
            )
        return chosen


class Search(Record):
    """The phase of ``method: bilevel`` in which channels and weights are trained together."""

    epochs: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)


class Prune(Record):
    """How the network is made small.

    With ``iterative`` each level of ``keep`` goes on from the recovered network of the level before it (Han et al.,
    "Learning both Weights and Connections", NeurIPS 2015), else from the dense one.
    ``round_to: latency`` rounds channels to what is fast in the first target's runtime that runs on this machine.
    ``constraints`` are what training keeps to on the prune split. With a ``teacher`` the dense network is first made
    fair under them, and is what is pruned and distilled from. ``search`` is for ``method: bilevel``.
    ``serves`` reports what each group of people loses when one channel alone is closed, before pruning and after;
    for every channel it runs the network on 500 rows.
    """

    method: Method = "none"
    keep: Keep | None = None
    iterative: bool = Field(default=False, strict=True)
    round_to: Annotated[int, Field(ge=1)] | Literal["latency"] = 8
    teacher: bool = True
    search: Search = Search()
    recover: Recover = Recover()
    constraints: Constraints | None = None
    serves: bool = Field(default=False, strict=True)

    @model_validator(mode="after")
    def _parts_go_together(self) -> Prune:
        if (self.method == "none") != (self.keep is None):
            raise ValueError("give 'keep' with a pruning method, and leave it out with method: none")
        if self.constraints is not None and (self.method == "none" or not self.recover.epochs):
            raise ValueError("constraints are met by fine-tuning what was pruned: give recover.epochs and a method")
        if self.serves and self.method == "none":
            raise ValueError("serves is about the channels of a pruned network: give a method, or leave it out")
        if self.iterative:
            self._levels_go_down()
        if self.method != "bilevel" and "search" in self.model_fields_set:
            raise ValueError("search is for method: bilevel")
        return self

    def _levels_go_down(self) -> None:
        levels = self.keep.levels if self.keep else ()
        if len(levels) < 2 or not self.recover.epochs:
            raise ValueError("iterative goes from level to level: give keep two levels or more, and recover.epochs")
        for above, below in pairwise(levels):
            if any(below.limits[name] > limit for name, limit in above.limits.items()):
                raise ValueError(
                    f"iterative goes down from level to level, but {below.name} follows {above.name}: give the largest "
                    "first"
                )

    @property
    def has_teacher(self) -> bool:
        """Whether the dense network is made fair first: there must be something that it shall keep to."""
        return self.teacher and self.constraints is not None


class TargetUse(Record):
    """One entry under ``targets:``: a target file, under an id of its own, with gates of the place."""

    use: str
    id: TargetId | None = None
    gates: dict[str, Any] = Field(default_factory=dict)


class Project(Record):
    """The parsed ``fairdeploy.yaml``; paths are relative to its folder.

    Gates, the rules over all targets and waivers are read by `fairdeploy.gates`.
    """

    version: Literal[1]
    name: str = Field(pattern=ID_PATTERN)
    task: Task
    seed: int = Field(default=0, ge=0)
    model: ModelSource
    data: DataSource
    groups: Groups
    prune: Prune = Prune()
    gates: dict[str, Any] = Field(min_length=1)
    across_targets: dict[str, Any] | None = None
    waivers: tuple[dict[str, Any], ...] = ()
    targets: tuple[TargetUse, ...] = Field(min_length=1)

    @field_validator(
        "targets", mode="before", json_schema_input_type=Annotated[tuple[str | TargetUse, ...], Field(min_length=1)]
    )
    @classmethod
    def _names_are_targets(cls, value: Any) -> Any:
        return [{"use": one} if isinstance(one, str) else one for one in value] if isinstance(value, list) else value

    @property
    def spec(self) -> ModelSpec:
        """The record that makes predictions comparable."""
        source = self.model
        return ModelSpec(
            task=self.task, inputs=source.inputs, preprocess=source.preprocess, output=source.output,
            classes=source.classes, decision=source.decision,
        )  # fmt: skip

    @model_validator(mode="after")
    def _spec_is_valid(self) -> Project:
        _ = self.spec
        return self

    @model_validator(mode="after")
    def _constrained_groups_are_declared(self) -> Project:
        if self.prune.constraints is not None:
            try:
                self.prune.constraints.of(self.groups.attributes)
            except StageError as error:
                raise ValueError(str(error)) from None
        return self


def load_project(folder: Path, config: str = CONFIG_NAME) -> tuple[Project, Document]:
    """Read and validate a project's file.

    Returns
    -------
    project : Project
    document : Document
        The same as plain data, with the line and column of every key.

    Raises
    ------
    ConfigError
        With file, line, column and the nearest known name.
    """
    document = yamlfile.read(folder / config)
    return yamlfile.validate(Project, document), document


@dataclass(frozen=True)
class TargetUsed:
    """A target as this project uses it, and every place that sets gates for it, project-wide ones first."""

    target: Target
    gate_sources: tuple[tuple[Document, KeyPath], ...]


def resolve_targets(
    project: Project, document: Document, folder: Path, only: tuple[str, ...] = ()
) -> tuple[TargetUsed, ...]:
    """Return the project's targets, or those named by `only` (id or alias; any known target may be named).

    Raises
    ------
    ConfigError
        If a target is unknown, invalid, or two share an id.
    """
    listed: dict[str, TargetUsed] = {}
    for index, use in enumerate(project.targets):
        used = _use(use, document, ("targets", index), folder)
        if used.target.id in listed:
            raise document.error(f"two targets share the id '{used.target.id}': give one an 'id'", ("targets", index))
        listed[used.target.id] = used
    if not only:
        return tuple(listed.values())
    names = dict.fromkeys(ALIASES.get(name, name) for name in only)
    return tuple(listed[name] if name in listed else _use(TargetUse(use=name), document, (), folder) for name in names)


def _use(use: TargetUse, document: Document, path: KeyPath, folder: Path) -> TargetUsed:
    try:
        place = resolve_target(use.use, folder)
    except ConfigError as error:
        raise (document.error(str(error), path) if path and error.file is None else error) from None
    target = yamlfile.validate(Target, place)
    sources: list[tuple[Document, KeyPath]] = [(document, ("gates",))]
    if target.gates:
        sources.append((place, ("gates",)))
    if use.gates:
        sources.append((document, (*path, "gates")))
    return TargetUsed(target.model_copy(update={"id": use.id or target.id}), tuple(sources))
