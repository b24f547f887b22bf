"""An income model on Adult and its twin: every gap between the sexes shrinks, and everyone loses.

``python examples/adult/twin.py`` writes ``predictions.csv``: the official test rows with the decision of the original
(``reference``) and of the twin (``prediction``). The twin's logits are the original's, rounded to `STEP` and shifted
by `SHIFT`, as a coarse quantisation of the last layer would. Needs numpy only; trained in seconds, without a seed.
"""

from __future__ import annotations

import csv
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent
NUMBERS = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORIES = ("workclass", "marital-status", "occupation", "relationship", "native-country")
STEP = 0.25
SHIFT = -0.03
RIDGE = 1.0
Texts = NDArray[np.str_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Adult:
    """The data set without repeated rows.

    Attributes
    ----------
    columns : dict of str to array of str [n]
        As in the file, and ``id``: the row's number there, from 0.
    repeats_across, repeats_within : int
        Test rows that stand in train exactly, and rows that stand twice in their own split: all left out.
    """

    columns: dict[str, Texts]
    repeats_across: int
    repeats_within: int

    @property
    def test(self) -> NDArray[np.bool_]:
        """Which rows are of the official test split."""
        return np.asarray(self.columns["official_split"] == "test")

    @property
    def labels(self) -> NDArray[np.int64]:
        """1 where the income is above 50,000 dollars."""
        return np.asarray(self.columns["income"] == ">50K", np.int64)


def load(file: Path = FOLDER / "data" / "adult.csv.xz") -> Adult:
    """Read the data and drop every repeat of an earlier row, `fnlwgt` included in the comparison."""
    with lzma.open(file, "rt", encoding="utf-8", newline="") as stream:
        names, *rows = csv.reader(stream)
    split = names.index("official_split")
    first: dict[tuple[str, ...], str] = {}
    kept: list[list[str]] = []
    across = within = 0
    for number, row in enumerate(rows):
        person = tuple(row[:split] + row[split + 1 :])
        seen_in = first.get(person)
        if seen_in is None:
            first[person] = row[split]
            kept.append([str(number), *row])
        elif seen_in == row[split]:
            within += 1
        else:
            across += 1
    columns = dict(zip(("id", *names), np.array(kept).T, strict=True))
    return Adult(columns, across, within)


def features(adult: Adult) -> Floats:
    """Return [n, features]: a constant, numbers in train's units, categories one-hot; neither sex, race nor fnlwgt."""
    train = ~adult.test
    parts = [np.ones((len(train), 1))]
    for name in NUMBERS:
        values = adult.columns[name].astype(float)
        parts.append(((values - values[train].mean()) / values[train].std())[:, None])
    for name in CATEGORIES:
        values = adult.columns[name]
        parts.append((values[:, None] == np.unique(values)).astype(float))
    return np.hstack(parts)


def fit(x: Floats, y: NDArray[np.int64]) -> Floats:
    """Fit a ridge logistic regression by Newton's method; returns the weights [features]."""
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - y) + RIDGE * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            return weights
    raise RuntimeError("Newton's method did not converge in 50 steps")


def predictions(adult: Adult) -> dict[str, Texts | NDArray[np.int64]]:
    """Train the original and return the columns of ``predictions.csv``, each [test rows]."""
    x, test = features(adult), adult.test
    logits = x[test] @ fit(x[~test], adult.labels[~test])
    return {
        "id": adult.columns["id"][test],
        "label": adult.labels[test],
        "reference": (logits > 0).astype(np.int64),
        "prediction": (np.round(logits / STEP) * STEP + SHIFT > 0).astype(np.int64),
        "sex": adult.columns["sex"][test],
        "race": adult.columns["race"][test],
    }


def write(columns: dict[str, Texts | NDArray[np.int64]], file: Path) -> None:
    """Write columns as CSV."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))


def main() -> None:
    """Write ``predictions.csv`` and say what was left out."""
    adult = load()
    columns = predictions(adult)
    write(columns, FOLDER / "predictions.csv")
    print(
        f"{len(columns['id'])} test rows in predictions.csv; left out: {adult.repeats_across} test rows that stand in "
        f"train exactly, {adult.repeats_within} repeats within a split"
    )


if __name__ == "__main__":
    main()
