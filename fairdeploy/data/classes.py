"""Classes of labels and predictions that were written as text: their order, and which one is positive."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairdeploy.data.spelling import MISSING_WORDS, without_decimals
from fairdeploy.data.values import Seen, is_number
from fairdeploy.errors import ConfigError

MOST_CLASSES = 50
BOOLEANS = {"false": "0", "true": "1", "0": "0", "1": "1", "0.0": "0", "1.0": "1"}
NATURAL = ({"0", "1"}, {"-1", "1"})


@dataclass(frozen=True)
class Classes:
    """The classes, the positive one last of two, and the class that each text means.

    Whole numbers with decimals (a column with gaps is written so) and booleans mean 0, 1, ...
    """

    names: tuple[str, ...]
    meaning: Mapping[str, str]

    def are_scores(self, column: Seen) -> bool:
        """Whether a column of predictions holds probabilities of the positive class."""
        if len(self.names) != 2 or all(self.meaning[text] in self.names for text in column.first):
            return False
        return all(is_number(text) and 0 <= float(text) <= 1 for text in column.first)

    def indices(self, column: Seen) -> dict[str, int]:
        """Return the class index of each text of a column.

        Raises
        ------
        DataError
            If a text is no class.
        """
        for text in column.first:
            if self.meaning[text] not in self.names:
                hint = ": it looks like a score: give it as --score" if _is_fraction(text) else ""
                raise column.error(text, f"'{text}' is none of the classes ({', '.join(self.names)}){hint}")
        return {text: self.names.index(self.meaning[text]) for text in column.first}


def settle_classes(label: Seen, predicted: Sequence[Seen], *, declared: Sequence[str], positive: str | None) -> Classes:
    """Settle the classes: those that are declared, else those of the labels.

    Raises
    ------
    DataError
        If there is only one class, so many labels that they must be meant otherwise, or a label that is not declared
        and is a word for missing or one of more than two that no prediction holds.
    ConfigError
        If nothing says which of two classes is positive.
    """
    if label.crowded or (len(label.first) > MOST_CLASSES and not declared):
        raise label.error(label.last, f"more than {MOST_CLASSES} different labels: if they are classes, list them all")
    _refuse_no_class(label, declared)
    given = [*declared, *([] if positive is None else [positive])]
    truths = {text.lower() for text in (*label.first, *given)} <= BOOLEANS.keys()
    texts = {text for column in (label, *predicted) for text in column.first} | set(given)
    meaning = {text: BOOLEANS.get(text.lower(), text) if truths else without_decimals(text) for text in texts}
    names = [meaning[name] for name in declared] or sorted({meaning[text] for text in label.first}, key=_order)
    if not declared and set(names) < {"0", "1"}:
        names = ["0", "1"]
    if len(names) < 2 or len(set(names)) < len(names):
        raise label.error(
            label.last, f"the classes are {', '.join(names)}: list at least two different ones (--classes)"
        )
    if not declared and len(names) > 2:
        _refuse_never_predicted(label, predicted, meaning)
    if positive is not None:
        if len(names) != 2 or meaning[positive] not in names:
            raise ConfigError(f"positive is '{positive}', but the classes are {', '.join(names)}: name one of two")
        names.sort(key=meaning[positive].__eq__)
    elif len(names) == 2 and not declared and set(names) not in NATURAL:
        raise ConfigError(
            f"the labels of '{label.column}' are '{names[0]}' and '{names[1]}': say which is the positive one, as in "
            f"--positive {names[1]}"
        )
    return Classes(tuple(names), meaning)


def _refuse_no_class(label: Seen, declared: Sequence[str]) -> None:
    for text in label.first:
        if text.lower() in MISSING_WORDS and text not in declared:
            raise label.error(
                text,
                f"'{text}' in {label.rows[text]} rows is a word for missing: drop them, or list all classes if it is "
                "one (--classes)",
            )
        if is_number(text) and not math.isfinite(float(text)):
            raise label.error(text, f"'{text}' is no class")


def _refuse_never_predicted(label: Seen, predicted: Sequence[Seen], meaning: Mapping[str, str]) -> None:
    """Refuse rows that nothing can be right on: they hide what changed on the others, unless they are meant."""
    held = {meaning[text] for column in predicted for text in column.first}
    for text in label.first:
        if predicted and meaning[text] not in held:
            raise label.error(
                text,
                f"'{text}' in {label.rows[text]} rows is what no prediction and no reference ever says: list all "
                "classes if it is one (--classes), else drop these rows",
            )


def _order(name: str) -> tuple[bool, int, str]:
    whole = re.fullmatch(r"-?\d{1,9}", name) is not None
    return (not whole, int(name) if whole else 0, name)


def _is_fraction(text: str) -> bool:
    return is_number(text) and 0 < float(text) < 1
