"""How texts are spelt: characters that nobody sees, words for missing, and spellings that mean the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

MISSING_WORDS = frozenset(("none", "null", "na", "n/a", "#n/a", "<na>", "nan", "nil", "nat", "-", "?"))
WITH_DECIMALS = re.compile(r"([+-]?\d+)\.0*")
WHOLE = re.compile(r"[+-]?\d+")
BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2028\u2029\u2800\u3164\uffa0") | {*map(chr, range(0xFE00, 0xFE10))}
"""Characters that show nothing, though their Unicode category is one of letters, marks or separators."""


def hidden_character(texts: Sequence[str]) -> str | None:
    """Return the first, by its code point, of the invisible and control characters in some texts; spaces are none.

    Control, format, private and unassigned characters (Unicode categories C*), line and paragraph separators, and
    letters and marks that show nothing.
    """
    together = "".join(texts)
    if together.isascii() and together.isprintable():
        return None
    hidden = (one for one in set(together) if one in BLANK or unicodedata.category(one).startswith("C"))
    return min(hidden, default=None)


def without_decimals(text: str) -> str:
    """Return a whole number without its decimals, 1 for 1.0 (a column with gaps is written so), else the text."""
    found = WITH_DECIMALS.fullmatch(text)
    return found[1] if found else text


def same_names(names: Sequence[str]) -> Sequence[str]:
    """Return for each name what it has in common with all that are taken for the same.

    Whole numbers are the same with leading zeros and sign or without; texts are the same in their compatible
    composed form (NFKC, Unicode Standard Annex 15).
    """
    if "".join(names).isascii():
        return [name if name[:1] > "0" else _number(name) for name in names]
    return [_number(unicodedata.normalize("NFKC", name)) for name in names]


def _number(text: str) -> str:
    return str(int(text)) if WHOLE.fullmatch(text) else text
