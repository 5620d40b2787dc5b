"""Texts written side by side, as the value that Compare draws: what each wrote, from what, where they part.

{"id", "title", "note", "busy", "headline": [[text, is said]], "verdict", "given", "columns": [{
    "source", "by", "stage", "text": parts, "lookups": [{"chunk", "neighbours": [{
        "rank", "title", "closeness", "n": parts, "f": parts}]}]}]}

parts: [[text, marks]], marks a string of words: "shared" before the texts part, "said" the words that the
headline quotes, "copied" what stands in what was read (there: what was copied from it).
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from app import text
from app.live import LiveText
from indexing.chunking import read_window
from retro_core.trace import common_runs, describe_copies

Parts = list[list[str]]

_QUOTED = 60  # characters of what was said, in the headline
_LABEL = re.compile(r"[^\W\d][^:;\n]{0,48}: (?=\S)")
_END = re.compile(r"\n|;| \(|, |[.!?](?: |$)")


def view(
    live: Sequence[LiveText],
    sources: Sequence[tuple[str, str]],
    *,
    busy: bool,
    stopped: bool = False,
    title: str = "",
) -> dict[str, Any]:
    """sources: name of each column's datastore, empty for none, and how it is looked into"""
    written = ["".join(token["text"] for token in one.tokens[one.prompt_tokens :]) for one in live]
    said = [answer(words) for words in written]
    shared = common_beginning(written)
    found = [
        ["".join(card["tokens"]) for chunk in one.chunks for card in chunk["neighbours"]] for one in live
    ]
    headline, verdict = [], ""
    if not busy:
        headline = sentence([edition(*source) for source in sources], said)
        verdict = judgement(said, found, [bool(name) for name, _ in sources])
    begun = next((one for one in live if one.tokens), None)
    return {
        "id": live[0].trace_id,
        "title": title,
        "note": text.TEXTS_DIFFER,
        "busy": busy,
        "headline": headline,
        "verdict": verdict,
        "given": ""
        if begun is None
        else "".join(token["text"] for token in begun.tokens[: begun.prompt_tokens]),
        "columns": [
            _column(one, source, "" if busy else phrase[: _QUOTED - 1], shared, stopped)
            for one, source, phrase in zip(live, sources, said, strict=True)
        ],
    }


# ------------------------------------------------------------------------------------------- the sentence


def answer(written: str) -> str:
    """The first words that say something: without a label before them, up to the end of the clause.

    " total: 35,336,133 (2025 est.); male: ..." -> "35,336,133"
    """
    words = written.strip()
    label = _LABEL.match(words)
    words = words[label.end() :] if label else words
    end = _END.search(words)
    return (words[: end.start()] if end else words).strip()


def edition(datastore: str, by: str) -> str:
    """How the headline names a column."""
    if not datastore:
        return "without retrieval"
    name = text.EDITIONS.get(datastore, datastore)
    return f"with {name}" if by == "dense" else f"with {name} {text.LOOKED_INTO[by]}"


def sentence(editions: Sequence[str], said: Sequence[str]) -> list[list[Any]]:
    """[[text, whether it is a quotation]]; nothing before every column has words."""
    if not all(said):
        return []
    if len(set(said)) == 1:
        listed = ", ".join(editions[:-1]) + f" and {editions[-1]}"
        return [
            [f"Same model, same prompt: {listed} it writes ", False],
            [_short(said[0]), True],
            [".", False],
        ]
    parts: list[list[Any]] = []
    for place, (name, words) in enumerate(zip(editions, said, strict=True)):
        lead = f"Same model, same prompt: {name} it writes " if not place else f", {name} "
        parts += [[lead, False], [_short(words), True]]
    return [*parts, [".", False]]


def judgement(said: Sequence[str], found: Sequence[Sequence[str]], reads: Sequence[bool]) -> str:
    """Whether what was said stands in what was looked up: this, and not that it is true, is what can be seen.

    found: the texts of each column's neighbours · reads: whether the column looks anything up
    """
    # It imports torch, which the page must not wait for; by now it is there.
    from retro_core.evaluation.swap import first_of

    def stands(words: str, texts: Sequence[str]) -> bool:
        return any(first_of(one, {"said": [words]}) for one in texts)

    if not all(said):
        return ""
    readers = [place for place, one in enumerate(reads) if one]
    if any(len(said[place]) > _QUOTED for place in readers):  # a story: no whole clause stands anywhere
        return "Underlined is what stands, word for word, both in a text and in what it had looked up."
    copied = [place for place in readers if stands(said[place], found[place])]
    guess = ""
    everything = [one for texts in found for one in texts]
    if readers and len(readers) < len(said):
        off = next(place for place, one in enumerate(reads) if not one)
        if not stands(said[off], everything):
            guess = " Without retrieval it had nothing to go by: that is a guess."
    if not readers:
        return "Nothing was looked up: this is what the model says by itself."
    if len(copied) == len(readers):
        words = {1: "It stands", 2: "Both stand"}.get(len(readers), "All of them stand")
        return f"{words} word for word in what the model had just looked up (underlined).{guess}"
    if not copied:
        words = "It stands nowhere" if len(readers) == 1 else "None of them stands"
        return (
            f"{words} in what the model had looked up: it misread its neighbours, or did not use them.{guess}"
        )
    quoted = " and ".join(f"“{_short(said[place])}”" for place in copied)
    return (
        f"Only {quoted} stands word for word in what the model had looked up (underlined); the rest it "
        f"misread.{guess}"
    )


def common_beginning(texts: Sequence[str]) -> int:
    """So many characters all texts begin with; a word or a number that is cut is not among them."""
    shortest = min(map(len, texts), default=0)
    same = next((i for i in range(shortest) if len({one[i] for one in texts}) > 1), shortest)
    while same and any(_cuts(one, same) for one in texts):
        same -= 1
    return same


def _cuts(one: str, at: int) -> bool:
    return at < len(one) and not one[at - 1].isspace() and not one[at].isspace()


def _short(words: str) -> str:
    return words if len(words) <= _QUOTED else words[: _QUOTED - 1].rstrip() + "…"


# ------------------------------------------------------------------------------------------- a column


def _column(live: LiveText, source: tuple[str, str], said: str, shared: int, stopped: bool) -> dict[str, Any]:
    texts = [token["text"] for token in live.tokens]
    copied = np.zeros(len(texts), dtype=bool)
    size, lookups = live.model.config.chunk_size, []
    for chunk, neighbours in zip(live.chunks, live.neighbours, strict=False):
        window = read_window(chunk["index"], len(texts), size)
        window = range(max(window.start, live.prompt_tokens), window.stop)
        read = [token["id"] for token in live.tokens[window.start : window.stop]]
        cards = []
        for card in chunk["neighbours"]:
            spans: list[list[int]] = []
            if read:
                tokens = neighbours.tokens[0, card["rank"] - 1]
                runs = common_runs(read, tokens, neighbours.pad_id)
                copies = describe_copies(runs, len(read), len(tokens), size)
                spans = copies["copy_neighbour"]
                for start, stop in copies["copy_read"]:
                    copied[window.start + start : window.start + stop] = True
            cards.append(_card(card, spans, said))
        lookups.append({"chunk": chunk["index"] + 1, "neighbours": cards})
    written = slice(live.prompt_tokens, None)
    return {
        "source": source[0],
        "by": text.LOOKED_INTO.get(source[1], ""),
        "stage": _stage(live, stopped),
        "text": parts(texts[written], copied[written], said, shared),
        "lookups": lookups,
    }


def _stage(live: LiveText, stopped: bool) -> str:
    if live.reason:
        return f"{live.written} tokens.{text.ENDED.get(live.reason, '')}"
    if stopped:
        return f"Stopped after {live.written} tokens."
    return f"writing · {live.written} tokens" if live.stage == "writing" else f"{live.stage}…"


def _card(card: dict[str, Any], spans: list[list[int]], said: str) -> dict[str, Any]:
    size = card["num_neighbour_tokens"]
    copied = np.zeros(len(card["tokens"]), dtype=bool)
    for start, stop in spans:
        copied[start:stop] = True
    return {
        "rank": card["rank"],
        "title": card["title"],
        "closeness": None if card["closeness"] is None else round(card["closeness"], 3),
        "n": parts(card["tokens"][:size], copied[:size], said),
        "f": parts(card["tokens"][size:], copied[size:], said),
    }


def parts(texts: Sequence[str], copied: np.ndarray, said: str, shared: int = 0) -> Parts:
    """Tokens as pieces of text with the same marks."""
    whole = "".join(texts)
    marks = [set() for _ in whole]  # of each character
    at = 0
    for one, is_copied in zip(texts, copied, strict=True):
        for i in range(at, at + len(one)):
            if is_copied:
                marks[i].add("copied")
        at += len(one)
    for i in range(min(shared, len(whole))):
        marks[i].add("shared")
    start = whole.find(said) if said else -1
    for i in range(start, start + len(said)) if start >= 0 else ():
        marks[i].add("said")
    pieces: Parts = []
    for character, own in zip(whole, marks, strict=True):
        words = " ".join(sorted(own))
        if pieces and pieces[-1][1] == words:
            pieces[-1][0] += character
        else:
            pieces.append([character, words])
    return pieces
