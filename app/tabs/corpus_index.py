"""Which index so many chunks want, in words: what it is, what it costs, what it finds."""

from typing import Any

from app import text
from indexing.advisor import Advice, IndexSettings, advice_for, advise, check_factory
from indexing.chunking import CHUNK_SIZE

_DIM = 384  # of the embedder that the page builds with, said before it is loaded
_BYTES_A_CHUNK = 2 * _DIM + 2 * CHUNK_SIZE + 4 * CHUNK_SIZE + 40  # vector, tokens, text, where it stands
_CHUNKS_PER_SECOND = 60  # of all-MiniLM on two cores, until this server has measured its own
_OTHER_SIZES = (10_000, 1_000_000, 10_000_000)
paces: list[float] = []  # chunks embedded a second by the last build here


def index_settings(factory: str, ram_mb: float | None, deletes: bool) -> IndexSettings:
    """Raises ConfigError where a number is out of bounds."""
    return IndexSettings(
        factory=(factory or "").strip(),
        ram_mb=int(ram_mb or 0),
        deletes=True if deletes is None else bool(deletes),
    )


def advised(count: int, asked: IndexSettings | None = None) -> dict[str, Any]:
    """The value of `Facts`: what would search so many chunks, what it needs, and why. Raises ConfigError if
    what was asked for cannot be made of so many."""
    if not count:
        return {"notes": [text.NO_INDEX_YET]}
    advice = advice_for(asked or IndexSettings(), count, _DIM)
    if not advice.exact:
        check_factory(advice.factory, count, _DIM)
    rate = paces[-1] if paces else _CHUNKS_PER_SECOND
    told = "as the last build here" if paces else "on two cores; the first build here measures it"
    return {
        "title": index_in_words(advice),
        "facts": [
            ["Chunks", f"{count:,}"],
            ["Time to embed them", f"about {duration(count / rate)} ({rate:,.0f} chunks/s {told})"],
            [
                "Time to build the index",
                "none" if advice.exact else f"about {duration(advice.build_seconds)}",
            ],
            ["Memory while searching", size(advice.ram_bytes)],
            ["On disk", f"about {size(count * _BYTES_A_CHUNK)}"],
            ["Recall of the true 10 nearest", recall(advice)],
        ],
        "notes": [advice.reason, text.RECALL],
    }


def index_in_words(advice: Advice) -> str:
    if advice.exact:
        return "Exact search: every chunk is compared (SQ8)"
    kinds = {"IVF": "lists, of which a search reads some", "HNSW": "a graph that a search walks"}
    kind = next((words for word, words in kinds.items() if word in advice.factory), "built by faiss")
    return f"{advice.factory}: {kind}"


def other_sizes() -> list[list[str]]:
    """Rows of the table of what the advisor says for other sizes."""
    rows = []
    for count in _OTHER_SIZES:
        advice = advise(count, _DIM)
        build = "nothing to build" if advice.exact else f"about {duration(advice.build_seconds)}"
        rows.append([f"{count:,}", advice.factory, size(advice.ram_bytes), build, recall(advice)])
    return rows


def recall(advice: Advice) -> str:
    return "all of them, exactly" if advice.exact else f"about {advice.recall:.0%}; measured when it is built"


def size(count: float) -> str:
    if count >= 1e9:
        return f"{count / 1e9:,.1f} GB"
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{max(1, round(count / 1e3)):,} kB"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
