"""Values of tables as text or numbers, whatever wrote them; what cannot be used is refused with its row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.spelling import hidden_character, without_decimals
from fairdeploy.data.tables import Chunk, Table, Values
from fairdeploy.errors import DataError

NAN = frozenset(("nan", "NaN"))
MOST_DIFFERENT = 1_000
MOST_CHARACTERS = 512
DECIMAL_COMMA = re.compile(r"\s*\d+,\d+\s*")


@dataclass(frozen=True)
class Part:
    """Successive rows of a table; `start` is the position of the first, from 0."""

    table: Table
    start: int
    chunk: Chunk

    def error(self, at: int, message: str) -> DataError:
        """Make an error that points at one of the rows."""
        return self.table.error(message, self.start + at)

    def texts(self, column: str) -> list[str]:
        """Return a column's values as text, a missing one as an empty text.

        Raises
        ------
        DataError
            If a value is neither text nor a number, holds a character that nobody sees, or is longer than
            `MOST_CHARACTERS`.
        """
        values = self.chunk[column]
        kinds = set(map(type, values))
        if kinds <= {str}:
            texts = list(map(str.strip, values))
        elif kinds <= {int}:
            texts = list(map(str, values))
        else:
            texts = []
            for at, value in enumerate(values):
                text = _text(value)
                if text is None:
                    kind = type(value).__name__
                    raise self.error(at, f"column '{column}' holds a {kind}: turn it into text or numbers")
                texts.append(text)
        hidden = hidden_character(texts)
        if hidden is not None:
            raise self.error(
                next(at for at, text in enumerate(texts) if hidden in text),
                f"column '{column}' holds the invisible character U+{ord(hidden):04X}: remove it",
            )
        longest = max(map(len, texts), default=0)
        if longest > MOST_CHARACTERS:
            raise self.error(
                [*map(len, texts)].index(longest),
                f"column '{column}': {longest} characters; an id or a level has at most {MOST_CHARACTERS}",
            )
        return texts

    def levels(self, column: str) -> list[str]:
        """Return a column's values as text; what numpy and pandas write for a missing value is an empty one, too."""
        texts = self.texts(column)
        return texts if NAN.isdisjoint(texts) else ["" if text in NAN else text for text in texts]

    def complete(self, column: str, texts: list[str]) -> list[str]:
        """Return the texts of a column, none of which may be empty.

        Raises
        ------
        DataError
            At the first empty one.
        """
        if "" in texts:
            raise self.error(texts.index(""), f"column '{column}' is empty: every row needs a value here")
        return texts

    def names(self, column: str) -> list[str]:
        """Return a column's ids or clusters, none of which may be missing; 1.0 is 1.

        Raises
        ------
        DataError
            At the first that is missing; besides, as `texts`.
        """
        texts = self.complete(column, self.texts(column))
        return [*map(without_decimals, texts)] if "." in "".join(texts) else texts

    def scores(self, column: str) -> NDArray[np.float64]:
        """Return a column's probabilities [rows].

        Raises
        ------
        DataError
            At the first value that is no number from 0 to 1.
        """
        values = _numbers(self.chunk[column])
        wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
        if len(wrong):
            found = self.chunk[column][wrong[0]]
            hint = ": write a decimal point" if isinstance(found, str) and DECIMAL_COMMA.fullmatch(found) else ""
            shown = repr(found) if len(repr(found)) < 50 else "a longer text or number"
            raise self.error(
                int(wrong[0]), f"column '{column}' is {shown}, no probability: scores are numbers from 0 to 1{hint}"
            )
        return values

    def numbers(self, column: str) -> NDArray[np.float32]:
        """Return a column's numbers [rows].

        Raises
        ------
        DataError
            At the first value that is missing or no number that float32 can hold.
        """
        with np.errstate(over="ignore"):
            values = _numbers(self.chunk[column]).astype(np.float32)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            found = self.chunk[column][wrong[0]]
            missing = found is None or found != found or (isinstance(found, str) and not found.strip())
            shown = repr(found) if len(repr(found)) < 50 else "a longer text or number"
            what = "is empty: fill it in or leave the row out" if missing else f"is {shown}: expected a finite number"
            raise self.error(int(wrong[0]), f"column '{column}' {what}")
        return values


def parts_of(tables: Sequence[Table], columns: Sequence[str]) -> Iterator[Part]:
    """Yield the rows of several tables, one after the other."""
    for table in tables:
        start = 0
        for chunk in table.read(list(dict.fromkeys(columns))):
            yield Part(table, start, chunk)
            start += len(chunk[columns[0]])


@dataclass
class Seen:
    """The different texts of one column, each with the row where it stood first and the number of its rows.

    Beyond `MOST_DIFFERENT` it is `crowded` and notes no more.
    """

    column: str
    first: dict[str, tuple[Table, int]] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)

    def note(self, part: Part, texts: list[str]) -> None:
        """Note the texts of some rows."""
        if not self.crowded:
            counts = Counter(texts)
            self.rows += counts
            for text in sorted(counts.keys() - self.first.keys()):
                self.first[text] = part.table, part.start + texts.index(text)

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


def is_number(text: str) -> bool:
    """Whether a text is a number, NaN and infinity included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


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
