"""The fact swap: the same prompts with another datastore, and whether the facts change with it."""

import re
import unicodedata
from collections.abc import Mapping, Sequence


def first_of(text: str, answers: Mapping[str, Sequence[str]]) -> str | None:
    """The name of `answers` of which an answer stands first in `text`, of two that start together the longer;
    None if none stands there.

    An answer stands there whole: "18.4" is neither in "118.4" nor in "18.43" nor in "-18.4". Case, kinds of
    blanks and Unicode's compatible forms do not matter.
    """
    text = _normal(text)
    best: tuple[int, int, str] | None = None
    for name, accepted in answers.items():
        for answer in map(_normal, accepted):
            found = re.search(rf"(?<![\w.,$-]){re.escape(answer)}(?!\w|[.,]\d)", text)
            if found and (best is None or (found.start(), -len(answer)) < best[:2]):
                best = (found.start(), -len(answer), name)
    return best and best[2]


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
