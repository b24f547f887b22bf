"""Statistics: any metric as a function of a table label x prediction, with bounds from one joint resampling.

A rate is a sum over rows; these are not: a precision's denominator depends on the predictions, a macro recall is a mean
of rates. A user adds one with `register`, or as an entry point of the group ``fairdeploy.metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points

import numpy as np

from fairdeploy.errors import ConfigError
from fairdeploy.evidence.cells import Cells, cell, outcomes
from fairdeploy.evidence.resampling import REPLICATES, Contrast, Floats, Ints, Resampled, resample
from fairdeploy.evidence.tally import Tally

GROUP = "fairdeploy.metrics"
Pair = tuple[Floats, Floats]
Value = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of tables; call it on a tally for its value.

    Attributes
    ----------
    name, words : str
        As in configuration files, and as in sentences.
    value : callable
        ``tables [..., label, prediction] -> array [...]``; NaN where undefined. Tables hold weights that need not be
        whole.
    binary : bool
        Whether it needs two classes; class 1 is the positive one.
    """

    name: str
    words: str
    value: Value
    binary: bool = True

    def __call__(
        self,
        tally: Tally,
        group: Mapping[str, str] | None = None,
        *,
        context: Mapping[str, str] | None = None,
        of: str = "deployed",
    ) -> float | None:
        """Return the value for the ``deployed`` or the ``reference`` predictions, None where undefined."""
        part = cell(tally.schema, group or {}, context or {})
        found, size = outcomes(tally, part), len(tally.schema.classes)
        table = np.zeros((size, size))
        np.add.at(
            table, (found.label, found.deployed if of == "deployed" else found.reference), found.counts.sum((0, 1))
        )
        value = self.of(table)
        return None if np.isnan(value) else float(value)

    def of(self, tables: Floats) -> Floats:
        """Return the values of tables [..., label, prediction]; division by 0 is NaN, not a warning.

        Raises
        ------
        ConfigError
            If it needs two classes and the tables have more.
        """
        if self.binary and tables.shape[-1] != 2:
            raise ConfigError(f"{self.name} needs two classes, not {tables.shape[-1]}: name one with 'class:'")
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.value(tables), dtype=float)


@dataclass(frozen=True)
class Estimate:
    """A number per cell, and what a resampling says of it; arrays [cells].

    Attributes
    ----------
    n : array of int
        Rows.
    deployed, reference : array of float
        Values; NaN where undefined.
    quantisation : array of float
        By how much a value may differ from that of unbinned scores; 0 for functions of counts. Bounds include it.
    method : str
    lower, upper, change_lower, change_upper : array [replicates, cells]
        Draws for the lower and the upper bound of the deployed value and of its change.
    """

    n: Ints
    deployed: Floats
    reference: Floats
    quantisation: Floats
    method: str
    lower: Floats = field(repr=False)
    upper: Floats = field(repr=False)
    change_lower: Floats = field(repr=False)
    change_upper: Floats = field(repr=False)

    @property
    def change(self) -> Floats:
        """Deployed minus reference."""
        return self.deployed - self.reference

    def bounds(self, one_sided_confidence: float) -> Pair:
        """Return one-sided lower and upper bounds of the deployed value; NaN where undefined."""
        return _quantiles(self.lower, self.upper, one_sided_confidence, self.quantisation)

    def change_bounds(self, one_sided_confidence: float) -> Pair:
        """Return one-sided lower and upper bounds of deployed - reference, paired; NaN where undefined."""
        return _quantiles(self.change_lower, self.change_upper, one_sided_confidence, 2 * self.quantisation)


def estimate(tally: Tally, statistic: Statistic, part: Cells, *, seed: int) -> Estimate:
    """Estimate a statistic of both networks in each cell of a part.

    Parameters
    ----------
    tally : Tally
    statistic : Statistic
    part : Cells
        From `fairdeploy.evidence.cells`.
    seed : int
        The same seed gives the same bytes, whatever else is estimated; all statistics see the same weights.

    Raises
    ------
    ConfigError
        If the statistic needs two classes and the tally has more.
    """
    return estimates(tally, (statistic,), part, seed=seed)[0]


def estimates(tally: Tally, statistics: Sequence[Statistic], part: Cells, *, seed: int) -> list[Estimate]:
    """Estimate several statistics with one resampling; each as `estimate` does."""
    wanted = [contrast for one in statistics for contrast in contrasts(one)]
    return paired_estimates(tally, part, resample(tally, part, wanted, seed=seed))


def paired_estimates(tally: Tally, part: Cells, drawn: Sequence[Resampled]) -> list[Estimate]:
    """Take `contrasts` that were resampled as estimates, one for two of them."""
    rows = part.take(tally.sums(part.axes)).sum(0)
    return [
        Estimate(
            rows,
            value.value,
            value.value - change.value,
            np.zeros(len(rows)),
            method(tally),
            value.lower,
            value.upper,
            change.lower,
            change.upper,
        )
        for value, change in zip(drawn[::2], drawn[1::2], strict=True)
    ]


def method(tally: Tally) -> str:
    """Name the method by which a tally is resampled."""
    how = "clusters" if tally.schema.clustered else "rows"
    return f"Bayesian bootstrap of {how}, one more against, {REPLICATES} replicates"


def contrasts(statistic: Statistic) -> tuple[Contrast, Contrast]:
    """Return what must be resampled for a statistic: its deployed value, and its change."""
    return (
        lambda tables: statistic.of(tables.deployed),
        lambda tables: statistic.of(tables.deployed) - statistic.of(tables.reference),
    )


def _quantiles(lower: Floats, upper: Floats, confidence: float, quantisation: Floats) -> Pair:
    low = np.quantile(lower, 1 - confidence, axis=0, method="lower") - quantisation
    high = np.quantile(upper, confidence, axis=0, method="higher") + quantisation
    return low, high


def names() -> list[str]:
    """Return the names of all statistics, built in, registered or installed, sorted; nothing is imported."""
    return sorted({*STATISTICS, *(entry.name for entry in entry_points(group=GROUP))})


def load(name: str) -> Statistic:
    """Return a statistic by name; one that a package brings is imported and registered now.

    Raises
    ------
    ConfigError
        If nobody registers the name (the known ones are given), or its file cannot be imported.
    """
    if name in STATISTICS:
        return STATISTICS[name]
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise ConfigError(f"unknown statistic '{name}'; known: {', '.join(names())}")
    try:
        statistic = found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"statistic '{name}' ({found[name].value}) cannot be imported: {error}") from error
    if getattr(statistic, "name", name) != name:
        raise ConfigError(f"statistic '{name}' ({found[name].value}) calls itself '{statistic.name}': use one name")
    return register(statistic)


def register(statistic: Statistic) -> Statistic:
    """Make a statistic known under its name, and return it.

    Raises
    ------
    ConfigError
        If it is no `Statistic`, its name is taken or is no identifier, or its function is not vectorised.
    """
    from fairdeploy.evidence.metrics import FLIPS, GAPS, RATES
    from fairdeploy.evidence.scores import SCORES

    if not isinstance(statistic, Statistic):
        raise ConfigError(f"{statistic!r} is no Statistic: give Statistic(name, words, value)")
    if not statistic.name.isidentifier() or statistic.name in {*RATES, *GAPS, *FLIPS, *SCORES, *STATISTICS}:
        raise ConfigError(f"the name '{statistic.name}' is taken, or no identifier: choose another")
    tables = np.arange(1.0, 25.0).reshape(3, 2, 2, 2)
    try:
        whole, single = statistic.of(tables), statistic.of(tables[1, 1])
    except Exception as error:  # a user's function may raise anything
        raise ConfigError(f"{statistic.name}: its function fails on tables [3, 2, 2, 2]: {error}") from error
    if whole.shape != (3, 2) or not np.array_equal(whole[1, 1], single, equal_nan=True):
        raise ConfigError(f"{statistic.name}: give one value per table, tables [..., label, prediction] -> [...]")
    STATISTICS[statistic.name] = statistic
    return statistic


def _recalls(tables: Floats) -> Floats:
    """Mean over all labels of the share that is predicted right; NaN where a label has no rows."""
    recalls: Floats = np.diagonal(tables, axis1=-2, axis2=-1) / tables.sum(-1)
    return np.asarray(recalls.mean(-1))


positive_predictive_value = Statistic(
    "positive_predictive_value", "positive predictive value", lambda t: t[..., 1, 1] / (t[..., 0, 1] + t[..., 1, 1])
)
negative_predictive_value = Statistic(
    "negative_predictive_value", "negative predictive value", lambda t: t[..., 0, 0] / (t[..., 0, 0] + t[..., 1, 0])
)
balanced_accuracy = Statistic("balanced_accuracy", "balanced accuracy", _recalls, binary=False)
f1_score = Statistic(
    "f1_score", "F1 score", lambda t: 2 * t[..., 1, 1] / (2 * t[..., 1, 1] + t[..., 0, 1] + t[..., 1, 0])
)

STATISTICS: dict[str, Statistic] = {
    one.name: one for one in (positive_predictive_value, negative_predictive_value, balanced_accuracy, f1_score)
}
