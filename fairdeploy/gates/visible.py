"""Words that a reader can see: what a waiver's approver and reason must be made of."""

from __future__ import annotations

import unicodedata

BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800"  # Hangul fillers and the empty Braille pattern: no ink, yet no blanks
PLACEHOLDERS = ("anonymous", "na", "nobody", "none", "null", "tba", "tbd", "todo", "unknown", "xxx")
LEAST_LETTERS = 2
LEAST_CHARACTERS = 10


def visible(text: str) -> str:
    """Return a text as it is.

    Raises
    ------
    ValueError
        If one of its characters cannot be seen: a control or format character, one that means nothing, a blank letter.
    """
    for character in text:
        if unicodedata.category(character).startswith("C") or character in BLANK_LETTERS:
            raise ValueError(
                f"the character U+{ord(character):04X} in it cannot be seen: write plain words on one line"
            )
    return text


def name_of_a_person(text: str) -> str:
    """Return a visible text that names somebody.

    Raises
    ------
    ValueError
        If it has fewer than two letters (names in Chinese have two), or is a placeholder such as TBD.
    """
    letters = "".join(one for one in unicodedata.normalize("NFKC", visible(text)) if one.isalpha()).casefold()
    if len(letters) < LEAST_LETTERS or letters in PLACEHOLDERS:
        raise ValueError(f"'{text}' names nobody: write who accepts this, with at least {LEAST_LETTERS} letters")
    return text


def reason_in_words(text: str) -> str:
    """Return a visible text that is long enough to say why.

    Raises
    ------
    ValueError
        If it has fewer than ten characters besides blanks and marks.
    """
    if sum(unicodedata.category(one)[0] not in "ZM" for one in visible(text)) < LEAST_CHARACTERS:
        raise ValueError(f"say why, with at least {LEAST_CHARACTERS} visible characters")
    return text
