"""Values of a table's column as text or numbers, whatever wrote them; what cannot be used is refused with its row."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.tables import Chunk, Table, Values
from fairdeploy.errors import DataError

MOST_DIFFERENT = 1_000
MOST_CHARACTERS = 512
DECIMAL_COMMA = re.compile(r"\s*\d+,\d+\s*")


@dataclass
class Seen:
    """The different texts of one column, each with the row where it stood first.

    Beyond `MOST_DIFFERENT` it is `crowded` and notes no more.
    """

    column: str
    first: dict[str, tuple[Table, int]] = field(default_factory=dict)

    def note(self, table: Table, start: int, texts: list[str]) -> None:
        """Note the texts of the rows from `start` on."""
        if not self.crowded:
            for text in sorted(set(texts) - self.first.keys()):
                self.first[text] = table, start + texts.index(text)

    @property
    def crowded(self) -> bool:
        """Whether there are more different texts than are noted."""
        return len(self.first) > MOST_DIFFERENT

    @property
    def numeric(self) -> bool:
        """Whether every text is a number or missing."""
        return all(is_number(text) for text in self.first if text)

    @property
    def last(self) -> str:
        """The text that was noted last."""
        return next(reversed(self.first))

    def error(self, text: str, message: str) -> DataError:
        """Make an error that points at the row where a text stood first."""
        table, row = self.first[text]
        return table.error(f"column '{self.column}': {message}", row)


def texts_of(table: Table, start: int, column: str, chunk: Chunk) -> list[str]:
    """Return a column's values as text, a missing one as an empty text; `start` is the position of its first row.

    Raises
    ------
    DataError
        If a value is neither text nor a number, or is longer than `MOST_CHARACTERS`.
    """
    values, kinds = chunk[column], set(map(type, chunk[column]))
    if kinds <= {str}:
        texts = [value.strip() for value in values]
    elif kinds <= {int}:
        texts = list(map(str, values))
    else:
        texts = []
        for at, value in enumerate(values):
            text = _text(value)
            if text is None:
                kind = type(value).__name__
                raise table.error(f"column '{column}' holds a {kind}: turn it into text or numbers", start + at)
            texts.append(text)
    longest = max(texts, key=len, default="")
    if len(longest) > MOST_CHARACTERS:
        raise table.error(
            f"column '{column}': {len(longest)} characters; at most {MOST_CHARACTERS} make an id, a class or a level",
            start + texts.index(longest),
        )
    return texts


def _text(value: Any) -> str | None:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip() if isinstance(value, str | int) else None


def known_texts(texts: list[str]) -> list[str]:
    """Return texts with what numpy and pandas write for a missing value as an empty one."""
    return ["" if text in ("nan", "NaN") else text for text in texts]


def is_number(text: str) -> bool:
    """Whether a text is a number, NaN and infinity included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def scores_of(table: Table, start: int, column: str, chunk: Chunk) -> NDArray[np.float64]:
    """Return a column's probabilities [rows].

    Raises
    ------
    DataError
        At the first value that is no number from 0 to 1.
    """
    values = _numbers(chunk[column])
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(wrong):
        found = chunk[column][wrong[0]]
        hint = ": write a decimal point" if isinstance(found, str) and DECIMAL_COMMA.fullmatch(found) else ""
        raise table.error(
            f"column '{column}' is {found!r}, no probability: scores are numbers from 0 to 1{hint}",
            start + int(wrong[0]),
        )
    return values


def _numbers(values: Values) -> NDArray[np.float64]:
    """Return numbers, NaN for what is none."""
    if bool not in set(map(type, values)):
        with suppress(ValueError, TypeError, OverflowError):
            return np.array(values, np.float64)
    return np.array([_number(value) for value in values])


def _number(value: Any) -> float:
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        return float("nan")
