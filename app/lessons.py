"""The lessons of Learn, as a pure view of what is recorded: words, and what each mini-lens draws.

[{"number", "title", "words", "lens", "data", "see": {"label", "href", "tab", "example": [id, chunk] | null}}]

The data come from the recorded traces and from the bundled model's evaluation; no number of theirs is written
here. `href` leads to the same as `tab` and `example`, see `app.address`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app import address, text
from indexing import paths
from retro_core.trace import Trace

LONGEST_CUT = 4000  # characters that are cut into tokens while somebody types
TO_CUT = (
    "The lamp of the lighthouse was lit for the first time on a stormy night in February. Its keeper wrote "
    "every ship into a book: her name, her port, the weather and the hour. Whoever wants to know what passed "
    "the reef a hundred years ago looks it up there. A library serves in the same way: nobody has to know "
    "all of it by heart who knows where it stands. What is not in the book cannot be found in it, and what "
    "is wrong in it will be told as it is written. So it is with a model that looks things up: take the book "
    "away, and it has to guess."
)


@dataclass(frozen=True)
class Lesson:
    """lens: the mini-lens, and its data · see: what leads on, where it leads"""

    title: str
    words: str
    lens: str
    see: str


LESSONS = (
    Lesson(
        "A text is cut into chunks",
        "A language model reads tokens: words, or pieces of words. RETRO cuts its text into chunks of 64 "
        "tokens. A whole chunk is a question to the library: what else is there that resembles this? The "
        "library, called datastore, was cut into the same chunks. Type below and watch the borders move.",
        "chunks",
        "Cut a text of your own in Corpus",
    ),
    Lesson(
        "One chunk asks, the next one reads",
        "When a chunk is complete it asks. What it finds cannot change what is written already, so it is "
        "read by what comes next: from the chunk's last token on, which writes the first of the new chunk, "
        "for 64 tokens. The very first chunk reads nothing. Move the slider: grey asks, the line reads.",
        "windows",
        "Step through its chunks in Explore",
    ),
    Lesson(
        "A neighbour comes with its continuation",
        "What is found is the neighbour (N): a chunk like the one that asked. What is read is more: also how "
        "its document went on, the continuation (F). That is the trick: where two texts resemble each other, "
        "what follows in one may follow in the other. Switch between the two and see which words of the new "
        "text stand in each.",
        "continuation",
        "See both halves in Explore",
    ),
    Lesson(
        "Chunked cross-attention looks it up",
        "To read is to attend: each new token may look at every token that was found, at some more and at "
        "others less; all of its attention adds up to 100 %. Here the model writes a number that it cannot "
        "know. Move through the text and watch where it looks.",
        "attention",
        "Every layer and head in Explore",
    ),
    Lesson(
        "Gain: what reading was worth",
        "The same model can read the same text without neighbours: that is Off. The gain of a token is how "
        "much likelier it is with them (On), in nats: 0.7 is twice as likely, 2.3 ten times. Orange is where "
        "reading helped, blue where it hurt. What stands in every such text needs no help.",
        "gain",
        "The gain of every token in Explore",
    ),
    Lesson(
        "Another book, another fact",
        "The model was never shown this country. The fact is not in its weights: it stands in the datastore. "
        "So another edition gives another number, without any training. Swap the book.",
        "swap",
        "Swap the book yourself in Compare",
    ),
    Lesson(
        "Attention is not influence",
        "A model can look at a passage and make nothing of it. To know what a neighbour did, leave it out "
        "and read the text again: what is lost is its influence, measured, not guessed. Here most of the "
        "attention goes where next to nothing comes from. Leave one out.",
        "influence",
        "Both beside each other in Explore",
    ),
    Lesson(
        "RETRO-fitting, and limits",
        "A finished model can learn to read: it stays frozen, an encoder and cross-attention are added and "
        "trained; without neighbours it is the old model, to the bit. No RETRO knows whether what it reads "
        "is true. It gains where the library nearly repeats the text; elsewhere little, and some tokens "
        "become less likely. Choose a kind of text: measured on texts it had never seen.",
        "limits",
        "All measurements in Measure",
    ),
)

# Probes of the evaluation, in words.
_PROBES = {
    "factbook": ("A country of the Factbook", "its pages of ten years before, and other countries"),
    "bible": ("A translation of the Bible", "two other translations"),
    "techdocs": ("Pages of a manual", "the manual's other pages"),
    "wiki": ("Articles of Wikipedia", "other articles"),
}


def all_lessons(traces: Mapping[str, Trace]) -> list[dict[str, Any]]:
    """traces: the recorded ones by id, in order. A lesson whose recording is not there is left out."""
    data = {
        "chunks": ({"text": TO_CUT}, _tab("corpus")),
        "windows": _windows(traces),
        "continuation": _continuation(traces),
        "attention": _attention(traces),
        "gain": _gain(traces),
        "swap": _swap(traces),
        "influence": _influence(traces),
        "limits": _limits(),
    }
    found = []
    for lesson in LESSONS:
        if data[lesson.lens] is None:
            continue
        drawn, where = data[lesson.lens]
        found.append(
            {
                "number": len(found) + 1,
                "title": lesson.title,
                "words": lesson.words,
                "lens": lesson.lens,
                "data": drawn,
                "see": {"label": lesson.see, **where},
            }
        )
    return found


Found = tuple[dict[str, Any], dict[str, Any]] | None  # (what is drawn, where more is to be seen)


def _example(trace_id: str, chunk: int) -> dict[str, Any]:
    href = f"?example={address.example_name(trace_id)}&chunk={chunk + 1}"
    return {"href": href, "tab": "explore", "example": [trace_id, chunk]}


def _tab(name: str) -> dict[str, Any]:
    return {"href": f"?tab={name}", "tab": name, "example": None}


def _all_chunks(traces: Mapping[str, Trace]) -> list[tuple[str, Trace, dict[str, Any]]]:
    return [(name, trace, chunk) for name, trace in traces.items() for chunk in trace.data["chunks"]]


def _texts(trace: Trace, span: list[int]) -> list[str]:
    return [token["text"] for token in trace.data["tokens"][span[0] : span[1]]]


def _windows(traces: Mapping[str, Trace]) -> Found:
    """The recorded text with most chunks."""
    name, trace = max(traces.items(), key=lambda pair: len(pair[1].data["chunks"]), default=(None, None))
    if trace is None or len(trace.data["chunks"]) < 2:
        return None
    chunks = [
        {
            "ask": chunk["ask"],
            "read": chunk["read"],
            "found": [card["title"] for card in chunk["neighbours"]],
        }
        for chunk in trace.data["chunks"]
    ]
    tokens = _texts(trace, [0, len(trace.data["tokens"])])
    size = trace.data["model"]["chunk_size"]
    return {"tokens": tokens, "pad": trace.data["pad"], "size": size, "chunks": chunks}, _example(name, 0)


def _continuation(traces: Mapping[str, Trace]) -> Found:
    """The neighbour whose continuation most was copied from."""
    best, most = None, 0
    for name, trace, chunk in _all_chunks(traces):
        for card in chunk["neighbours"]:
            copies = card["copies"] or []
            copied = sum(c["read"][1] - c["read"][0] for c in copies if c["part"] == "F")
            if copied > most:
                best, most = (name, trace, chunk, card), copied
    if best is None:
        return None
    name, trace, chunk, card = best
    split = card["num_neighbour_tokens"]
    copies = [copy for copy in card["copies"] if copy["part"] in ("N", "F")]
    return {
        "title": card["title"],
        "asked": chunk["query"],
        "neighbour": card["tokens"][: card["n_len"]],
        "continuation": card["tokens"][split : split + card["f_len"]],
        "split": split,
        "written": _texts(trace, chunk["read"]),
        "copies": copies,
    }, _example(name, chunk["index"])


def _attention(traces: Mapping[str, Trace]) -> Found:
    name, trace, chunk = _first(traces, "attention")
    if chunk is None:
        return None
    return {
        "written": _texts(trace, chunk["read"]),
        "neighbours": [{"title": card["title"], "tokens": card["tokens"]} for card in chunk["neighbours"]],
        "map": chunk["attention"],
    }, _example(name, chunk["index"])


def _gain(traces: Mapping[str, Trace]) -> Found:
    name, trace, chunk = _first(traces, "gain")
    if chunk is None:
        return None
    begin, end = chunk["read"]
    tokens = [
        {key: token[key] for key in ("text", "lp_on", "lp_off")} for token in trace.data["tokens"][begin:end]
    ]
    given = _texts(trace, [trace.data["pad"], begin])
    return {"given": given, "tokens": tokens}, _example(name, chunk["index"])


def _first(traces: Mapping[str, Trace], measured: str) -> tuple[Any, Any, Any]:
    """The first recorded chunk of which this was measured: the first recording is of a fact, and short."""
    found = (one for one in _all_chunks(traces) if one[2][measured] is not None)
    return next(found, (None, None, None))


def _swap(traces: Mapping[str, Trace]) -> Found:
    """Two recorded texts with one prompt and different datastores."""
    seen: dict[str, Trace] = {}
    for trace in traces.values():
        if not trace.data["chunks"] or not trace.data["chunks"][0]["neighbours"]:
            continue
        prompt = "".join(_texts(trace, [0, trace.data["prompt_tokens"]]))
        first = seen.setdefault(prompt, trace)
        if first.data["datastore"] != trace.data["datastore"]:
            return {"prompt": prompt, "books": [_book(first), _book(trace)]}, _tab("compare")
    return None


def _book(trace: Trace) -> dict[str, Any]:
    chunk = trace.data["chunks"][0]
    card = chunk["neighbours"][0]
    return {
        "name": text.EDITIONS.get(trace.data["datastore"]["name"], trace.data["datastore"]["name"]),
        "title": card["title"],
        "read": card["tokens"][: card["n_len"]],
        "read_copied": card["copy_neighbour"],
        "written": _texts(trace, chunk["read"]),
        "copied": card["copy_read"],
    }


def _influence(traces: Mapping[str, Trace]) -> Found:
    """The chunk in which the neighbour that gets most of the attention does least for what is written."""
    best, least = None, float("inf")
    for name, trace, chunk in _all_chunks(traces):
        cards = [card for card in chunk["neighbours"] if card["influence"] and card["share"] is not None]
        seen = max(cards, key=lambda card: card["share"], default=None)
        if len(cards) > 1 and seen["share"] > 0.5 and abs(seen["influence"]["own"]) < least:
            best, least = (name, trace, chunk, cards), abs(seen["influence"]["own"])
    if best is None:
        return None
    name, trace, chunk, cards = best
    neighbours = [
        {
            "rank": card["rank"],
            "title": card["title"],
            "share": card["share"],
            "influence": card["influence"]["own"],
            "tokens": card["influence"]["tokens"],
        }
        for card in cards
    ]
    return {"written": _texts(trace, chunk["read"]), "neighbours": neighbours}, _example(name, chunk["index"])


def _limits() -> Found:
    file = paths.model_dir(paths.DEMO_MODEL) / "evaluation.json"
    if not file.is_file():
        return None
    evaluation = json.loads(file.read_text(encoding="utf-8"))
    kinds = []
    for name, probe in evaluation["probes"].items():
        kind, library = _PROBES.get(name, (name, "another datastore"))
        kinds.append(
            {
                "text": kind,
                "library": library,
                "documents": probe["documents"],
                "nats": {key: probe["readings"][key]["nats"] for key in ("on", "off", "random")},
                "worse": probe["worse"],
            }
        )
    return {"kinds": kinds}, _tab("measure")
