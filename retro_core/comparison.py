"""One prompt written on with several retrievers; one text read in several ways. Side by side.

Texts that were written differ, so their probabilities cannot be compared: `read_side_by_side` scores one
given text, the same tokens in every setting.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexing.chunking import num_chunks
from indexing.errors import InputError
from indexing.neighbours import Neighbours, Retriever
from indexing.retrievers import look_up_text
from indexing.tokenizer import Tokenizer
from retro_core.checkpoint import LoadedModel
from retro_core.config import GenerationConfig
from retro_core.counterfactual import read
from retro_core.evaluation.statistics import Estimate, bootstrap, ratio_of_sums
from retro_core.generation import MAX_PROMPT_TOKENS, GenerationEvent, encode_prompt, generate
from retro_core.model import Retro

FEWEST_WINDOWS = 3  # of which an interval is made: two or fewer can hardly be drawn from


# ------------------------------------------------------------------------------------------- writing


def write_side_by_side(
    model: Retro,
    tokenizer: Tokenizer,
    prompt: str,
    retrievers: Sequence[Retriever | None],
    config: GenerationConfig,
) -> Iterator[tuple[int, GenerationEvent]]:
    """(place among `retrievers`, event of `generate`), an event of each text in turn. All have the same
    settings and the same seed; None is Retro[Off]. Close the generator to stop."""
    writers = {
        place: generate(model, tokenizer, prompt, retriever, config)
        for place, retriever in enumerate(retrievers)
    }
    try:
        while writers:
            for place, events in [*writers.items()]:
                event = next(events, None)
                if event is None:
                    del writers[place]
                else:
                    yield place, event
    finally:
        for events in writers.values():
            events.close()


# ------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Setting:
    """A model, and what answers its chunks; retriever None is Retro[Off]. name: for people"""

    name: str
    loaded: LoadedModel
    retriever: Retriever | None


@dataclass(frozen=True)
class ScoredText:
    """A text as one setting reads it; T tokens of it are scored.

    done, total  settings so far, and of all
    tokens       (T,) int64
    nats         (T,) float64, minus the log probability of each
    num_bytes    (T,) int64, in UTF-8
    windows      (T,) int64, number of the read window that each is in; what asked for it is the chunk before
    neighbours   of the chunks that a scored token reads, leading axis (l,), None for Retro[Off]
    chunks       (l,) numbers of these chunks
    """

    done: int
    total: int
    setting: Setting
    tokens: np.ndarray
    nats: np.ndarray
    num_bytes: np.ndarray
    windows: np.ndarray
    neighbours: Neighbours | None
    chunks: np.ndarray


def read_side_by_side(
    settings: Sequence[Setting], beginning: str, text: str, num_neighbours: int
) -> Iterator[ScoredText]:
    """Score `text` after `beginning` in each setting. Close the generator to stop.

    beginning  is not scored: it asks for the first neighbours. One shorter than a chunk is padded on the left
               to one, as a prompt is. If it is empty, `text` lends its first chunk (of the first model).

    Raises InputError if there is nothing that could read: an empty text, or one of a chunk or less without a
    beginning; and for more than MAX_PROMPT_TOKENS tokens.
    """
    if not settings:
        raise InputError("There is nothing to compare. Choose one way to read or more.")
    if not beginning.strip():
        beginning, text = _begin(settings[0].loaded, text)
    if not text.strip():
        raise InputError("There is no text to score. Give one.")
    for done, setting in enumerate(settings, start=1):
        yield _score(setting, beginning, text, num_neighbours, done, len(settings))


def _begin(loaded: LoadedModel, text: str) -> tuple[str, str]:
    """(the text's first chunk, the rest)"""
    m = loaded.config.chunk_size
    ids, starts = loaded.tokenizer.encode_with_offsets(text)
    if len(ids) <= m:
        raise InputError(
            f"The text has {len(ids)} tokens, and the first {m} read nothing: so no setting could differ. "
            "Give a longer text, or put its first words into the field for the beginning."
        )
    return text[: starts[m]], text[starts[m] :]


def _score(
    setting: Setting, beginning: str, text: str, num_neighbours: int, done: int, total: int
) -> ScoredText:
    loaded = setting.loaded
    tokenizer, m = loaded.tokenizer, loaded.config.chunk_size
    given = encode_prompt(tokenizer, beginning, m)
    tokens = tokenizer.encode(text)
    ids = np.concatenate([given, tokens])
    if len(ids) > MAX_PROMPT_TOKENS:
        raise InputError(
            f"Beginning and text have {len(ids):,} tokens, up to {MAX_PROMPT_TOKENS:,} fit. Shorten them."
        )
    found = None
    if setting.retriever is not None and num_chunks(len(ids), m):
        found = look_up_text(setting.retriever, ids, m, num_neighbours, tokenizer.pad_id)
    log_probs = read(loaded.model, ids.tolist(), found).log_probs.double().cpu().numpy()
    windows = np.arange(len(given), len(ids)) // m
    chunks = np.unique(windows) - 1
    return ScoredText(
        done=done,
        total=total,
        setting=setting,
        tokens=tokens,
        nats=-log_probs[len(given) :],
        num_bytes=tokenizer.byte_counts(tokens),
        windows=windows,
        neighbours=None if found is None else found.take(chunks),
        chunks=chunks,
    )


def bits_per_byte(scored: ScoredText) -> Estimate:
    """With its interval: windows are drawn, as there is only one document; None for fewer than
    FEWEST_WINDOWS of them."""
    return _drawn(ratio_of_sums(*_sums(scored, scored.nats / np.log(2), scored.num_bytes)), scored)


def perplexity(scored: ScoredText) -> Estimate:
    """Of a token, with its interval as in `bits_per_byte`. Those of models with different tokenizers cannot
    be compared: their tokens are other pieces of the text."""
    sums = np.column_stack(_sums(scored, scored.nats, np.ones(len(scored.nats))))
    return _drawn(bootstrap(sums, lambda totals: np.exp(totals[..., 0] / totals[..., 1])), scored)


def difference(scored: ScoredText, other: ScoredText) -> Estimate | None:
    """Bits per byte less those of `other`, the same windows drawn for both; None if their tokens differ."""
    if not np.array_equal(scored.tokens, other.tokens) or not np.array_equal(scored.windows, other.windows):
        return None
    bits = (scored.nats - other.nats) / np.log(2)
    return _drawn(ratio_of_sums(*_sums(scored, bits, scored.num_bytes)), scored)


def _sums(scored: ScoredText, *values: np.ndarray) -> list[np.ndarray]:
    """Of each window."""
    place = scored.windows - scored.windows[0]
    return [np.bincount(place, value) for value in values]


def _drawn(estimate: Estimate, scored: ScoredText) -> Estimate:
    enough = len(np.unique(scored.windows)) >= FEWEST_WINDOWS
    return estimate if enough else Estimate(estimate.value, None)
