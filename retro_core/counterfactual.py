"""What if the model had read something else? Neighbours changed by hand, and the text scored or written anew.

What chunk u reads shows first at the chunk's last token, position u*m + m-1 (Borgeaud et al. 2021, section
2.4 and listing 1), and an encoded neighbour depends on its own tokens and on the text alone. So after a
change in chunk u only two things are computed again: the encodings of the changed neighbours, and the text
from that position on, with everything before it taken from a cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from indexing.chunking import attending_positions, read_window
from indexing.errors import InputError
from indexing.neighbours import NO_CHUNK, PASTED, Neighbours, Retriever, Text, given_tokens
from indexing.tokenizer import Tokenizer
from retro_core.cache import DecodingCache
from retro_core.config import GenerationConfig
from retro_core.generation import GenerationEvent, generate
from retro_core.inputs import check_inputs
from retro_core.model import Capture, Retro, RetroOutput, neighbour_tensor


@dataclass(frozen=True)
class Mute:
    """Hide a neighbour. Attention weights are shared out among the others, as where it is missing; if it was
    the only one, the chunk reads nothing. chunk counts from 0, rank from 1, here and below."""

    chunk: int
    rank: int


@dataclass(frozen=True)
class Edit:
    """Change what a neighbour says: `text` replaces its tokens, the first m as the neighbour (N), the others
    as its continuation (F)."""

    chunk: int
    rank: int
    text: Text


@dataclass(frozen=True)
class Paste:
    """Put a text in the place of a neighbour, or where one is missing, cut into N and F as in `Edit`."""

    chunk: int
    rank: int
    text: Text


@dataclass(frozen=True)
class Swap:
    """Exchange two neighbours, of one chunk or of two."""

    chunk: int
    rank: int
    other_chunk: int
    other_rank: int


@dataclass(frozen=True)
class Reorder:
    """Put a chunk's neighbours into another order: `ranks` holds their present ranks, first to last. In paper
    mode the order of neighbours has no effect; in reference mode positions count over all of them."""

    chunk: int
    ranks: Sequence[int]


Change = Mute | Edit | Paste | Swap | Reorder


@dataclass(frozen=True)
class Changed:
    """Neighbours of all complete chunks of a text, leading axis (l,), after some changes.

    neighbours  what the model reads: a muted neighbour is missing, in its place
    shown       the same with the muted neighbours' tokens
    what        (l, k) str: "muted", "edited", "pasted", "moved", or empty where nothing was done
    """

    neighbours: Neighbours
    shown: Neighbours
    what: np.ndarray


@dataclass(frozen=True)
class Scored:
    """A text that the model has read, ready to be read again with other neighbours. Make one with `read`.

    ids         (1, n) of the text, padding on the left included
    neighbours  of all its complete chunks, leading axis (l,); None for Retro[Off]
    output      of the model; `encoded` and, if asked for, attention and write strength
    log_probs   (n,) log p(token t | tokens before t) in nats, float32 (float64 for a model in float64), 0 for
                t = 0
    cache       of the whole text
    """

    model: Retro
    ids: Tensor
    neighbours: Neighbours | None
    output: RetroOutput
    log_probs: Tensor
    cache: DecodingCache


@dataclass(frozen=True)
class Rescored:
    """A text scored with changed neighbours.

    first      the first token whose probability can differ; n if none can
    log_probs  (n,) float64, log p(token t | tokens before t) in nats, 0 for t = 0
    gain       (n,) float64, what the change did to them: above 0 where a token became likelier
    attention  chunk -> weights (layer, h, i, k, r) of the i positions that read a changed chunk, float32; a
               chunk that nothing reads is not there
    """

    changed: Changed
    first: int
    log_probs: np.ndarray
    gain: np.ndarray
    attention: dict[int, np.ndarray]


# -------------------------------------------------------------------------------------------- reading


def all_chunks(neighbours: Sequence[Neighbours], count: int) -> Neighbours:
    """Neighbours of consecutive chunks from the first one on, leading axes (1,) each, as one with the leading
    axis (count,): nothing for the chunks at the end that were not looked up."""
    found = neighbours[0]
    for later in neighbours[1:]:
        found = found.followed_by(later)
    missing = count - len(found.ids)
    if missing > 0:
        k, r = found.tokens.shape[1:]
        found = found.followed_by(Neighbours.none((missing,), k, r, found.pad_id))
    return found


@torch.inference_mode()
def read(
    model: Retro, ids: Sequence[int], neighbours: Neighbours | None, capture: Capture | None = None
) -> Scored:
    """Score the tokens `ids` with the neighbours of all their complete chunks, leading axis (n // m,)."""
    tokens = torch.tensor([list(ids)], device=model.device)
    cache = model.new_cache()
    given = None if neighbours is None else neighbour_tensor(neighbours, model.device)
    output = model(tokens, given, capture=capture, cache=cache)
    return Scored(model, tokens, neighbours, output, log_probs_of(output.logits, tokens)[0], cache)


@torch.inference_mode()
def read_without(scored: Scored) -> tuple[Tensor, Tensor]:
    """The same text under Retro[Off]: logits (1, n, v) and log probabilities (n,), as in `Scored`. The first
    m - 1 positions read nothing either way and are not computed again."""
    start = min(scored.model.config.chunk_size - 1, scored.ids.shape[1])
    if scored.neighbours is None or start == scored.ids.shape[1]:
        return scored.output.logits, scored.log_probs
    cache = _first_tokens(scored.cache, start)
    output = scored.model(scored.ids[:, start:], cache=cache)
    return (
        torch.cat([scored.output.logits[:, :start], output.logits], dim=1),
        _joined(scored, start, output.logits)[0],
    )


def log_probs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """logits (b, n, v), ids (b, n) -> (b, n): log p(token t | tokens before t), 0 for t = 0."""
    scores = logits[:, :-1]
    scores = scores if scores.dtype == torch.float64 else scores.float()
    chosen = scores.gather(-1, ids[:, 1:, None])[..., 0] - scores.logsumexp(dim=-1)
    return torch.nn.functional.pad(chosen, (1, 0))


def _first_tokens(cache: DecodingCache, length: int) -> DecodingCache:
    cache = cache.copy()
    cache.crop(length)
    return cache


def _joined(scored: Scored, start: int, logits: Tensor) -> Tensor:
    """logits (v, n - start, vocabulary) from position `start` on -> log probabilities (v, n) of the text."""
    ids = scored.ids[:, start:].expand(len(logits), -1)
    later = log_probs_of(logits, ids)[:, 1:]
    return torch.cat([scored.log_probs[: start + 1].expand(len(logits), -1), later], dim=1)


# ------------------------------------------------------------------------------- leaving one out


@torch.inference_mode()
def leave_one_out(scored: Scored) -> np.ndarray:
    """(l, k, n) float64: log p(token t) with all neighbours minus without neighbour j of chunk u, in nats, so
    that a token that the neighbour helped is above 0. NaN for neighbours that are missing or read by nothing.

    Exact: each neighbour of each chunk is muted alone (see `Mute`) and the text read again from the first
    position that read it, so what later windows make of the difference is in it.
    """
    neighbours, n = scored.neighbours, scored.ids.shape[1]
    m = scored.model.config.chunk_size
    found = np.full((*neighbours.ids.shape, n), np.nan)
    present = neighbours.mask.any(axis=-1)
    given = neighbour_tensor(neighbours, scored.model.device)
    mask = given != neighbours.pad_id
    cache = scored.cache.copy()
    for u in reversed(range(len(present))):  # from the end, so that one cache is cut shorter and shorter
        muted = np.flatnonzero(present[u])
        if not len(muted) or not read_window(u, n, m):
            continue
        start = attending_positions(u, n, m).start
        cache.crop(start)
        variants = mask.repeat(len(muted), 1, 1, 1)
        variants[torch.arange(len(muted)), u, torch.from_numpy(muted)] = False
        output = _read_again(scored, cache, start, given, variants, scored.output.encoded)
        log_probs = _joined(scored, start, output.logits)
        found[u, muted] = (scored.log_probs - log_probs).double().cpu().numpy()
    return found


def _read_again(
    scored: Scored,
    cache: DecodingCache,
    start: int,
    ids: Tensor,
    masks: Tensor,
    encoded: Tensor,
    capture: Capture | None = None,
) -> RetroOutput:
    """The text from position `start` on, where `cache` ends, in several variants at once.

    ids (1, l, k, r) · masks (v, l, k, r) · encoded (1, l, k, r, d_enc)
    """
    count = len(masks)
    cache = cache.copy()
    if count > 1:
        cache.select(torch.zeros(count, dtype=torch.int64, device=ids.device))
    return scored.model(
        scored.ids[:, start:].expand(count, -1),
        ids.expand(count, -1, -1, -1),
        neighbour_mask=masks,
        encoded=encoded.expand(count, -1, -1, -1, -1),
        cache=cache,
        capture=capture,
    )


# ------------------------------------------------------------------------------------------- changing


def change(
    neighbours: Neighbours, changes: Sequence[Change], tokenizer: Tokenizer | None, chunk_size: int
) -> Changed:
    """Apply `changes` one after the other to neighbours of all complete chunks, leading axis (l,).

    tokenizer  for texts that are not token ids yet

    Raises InputError for a chunk or a rank that does not exist, a text that is empty or too long, and an
    order that is none.
    """
    shown = replace(
        neighbours,
        ids=neighbours.ids.copy(),
        distances=neighbours.distances.copy(),
        tokens=neighbours.tokens.copy(),
        scores=None if neighbours.scores is None else neighbours.scores.copy(),
    )
    what = np.full(neighbours.ids.shape, "", dtype=object)
    for one in changes:
        match one:
            case Mute(chunk, rank):
                what[_place(shown, chunk, rank)] = "muted"
            case Edit(chunk, rank, text):
                place = _place(shown, chunk, rank)
                _put(shown, place, text, tokenizer, chunk_size)
                what[place] = "pasted" if shown.ids[place] == PASTED else "edited"
            case Paste(chunk, rank, text):
                place = _place(shown, chunk, rank, may_be_missing=True)
                _put(shown, place, text, tokenizer, chunk_size)
                shown.ids[place], what[place] = PASTED, "pasted"
            case Swap(chunk, rank, other_chunk, other_rank):
                here, there = _place(shown, chunk, rank), _place(shown, other_chunk, other_rank)
                _move(shown, what, [here, there], [there, here])
            case Reorder(chunk, ranks):
                held = _ranks(shown, chunk)
                if sorted(ranks) != held:
                    raise InputError(
                        f"Expected the ranks {_listed(held)} of chunk {chunk} in another order, got "
                        f"{_listed(ranks)}. Name each once."
                    )
                places = [_place(shown, chunk, rank) for rank in held]
                _move(shown, what, places, [_place(shown, chunk, rank) for rank in ranks])
    hidden = what == "muted"
    read_ = replace(
        shown,
        ids=np.where(hidden, NO_CHUNK, shown.ids),
        distances=np.where(hidden, np.inf, shown.distances).astype(np.float32),
        tokens=np.where(hidden[..., None], shown.pad_id, shown.tokens),
        scores=None if shown.scores is None else np.where(hidden, -np.inf, shown.scores).astype(np.float32),
    )
    return Changed(read_, shown, what)


def _ranks(neighbours: Neighbours, chunk: int) -> list[int]:
    """Ranks of the neighbours that a chunk has. Raises InputError if there is no such chunk."""
    count = len(neighbours.ids)
    if not 0 <= chunk < count:
        raise InputError(
            f"There is no chunk {chunk}: the text has {count} complete chunks, counted from 0. Choose one of "
            "them."
        )
    return (np.flatnonzero(neighbours.ids[chunk] != NO_CHUNK) + 1).tolist()


def _place(neighbours: Neighbours, chunk: int, rank: int, may_be_missing: bool = False) -> tuple[int, int]:
    held, slots = _ranks(neighbours, chunk), neighbours.ids.shape[1]
    if may_be_missing and 1 <= rank <= slots:
        return chunk, rank - 1
    if rank not in held:
        offered = range(1, slots + 1) if may_be_missing else held
        has = f"has the ranks {_listed(offered)}" if offered else "has no neighbours"
        raise InputError(f"Chunk {chunk} {has}, got rank {rank}. Choose another rank or chunk.")
    return chunk, rank - 1


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(str(rank) for rank in ranks)


def _put(
    neighbours: Neighbours,
    place: tuple[int, int],
    text: Text,
    tokenizer: Tokenizer | None,
    chunk_size: int,
) -> None:
    length = neighbours.tokens.shape[-1]
    neighbours.tokens[place] = given_tokens(text, tokenizer, length, chunk_size, neighbours.pad_id)
    _forget_measures(neighbours, place)  # of a text that is gone


def _move(
    neighbours: Neighbours, what: np.ndarray, to: list[tuple[int, int]], of: list[tuple[int, int]]
) -> None:
    """Put into the places `to` what stands in the places `of`, in that order."""
    target, origin = tuple(np.transpose(to)), tuple(np.transpose(of))
    for array in (neighbours.ids, neighbours.distances, neighbours.scores, neighbours.tokens, what):
        if array is not None:
            array[target] = array[origin]
    for here, there in zip(to, of, strict=True):
        if here != there and not what[here]:
            what[here] = "moved"
        if here[0] != there[0]:
            _forget_measures(neighbours, here)  # it was measured to another chunk


def _forget_measures(neighbours: Neighbours, place: tuple[int, int]) -> None:
    neighbours.distances[place] = np.inf
    if neighbours.scores is not None:
        neighbours.scores[place] = -np.inf


# --------------------------------------------------------------------------------------- scoring anew


@torch.inference_mode()
def rescore(scored: Scored, changes: Sequence[Change], tokenizer: Tokenizer | None = None) -> Rescored:
    """Score the text with changed neighbours; see `change` for what is raised. Only what changed, and what
    comes after it, is computed; `scored` stays as it is, for the next changes."""
    original, model = _neighbours_of(scored), scored.model
    changed = change(original, changes, tokenizer, model.config.chunk_size)
    after, n, m = changed.neighbours, scored.ids.shape[1], model.config.chunk_size
    same = (after.tokens == original.tokens).all(axis=(1, 2))
    differ = [u for u in range(len(same)) if not same[u] and read_window(u, n, m)]
    before = scored.log_probs.double().cpu().numpy()
    if not differ:
        return Rescored(changed, n, before, np.zeros(n), {})
    start = attending_positions(differ[0], n, m).start
    ids = neighbour_tensor(after, model.device)
    check_inputs(model.config, scored.ids, ids)
    output = _read_again(
        scored,
        _first_tokens(scored.cache, start),
        start,
        ids,
        ids != after.pad_id,
        _encoded_anew(scored, original, after, differ),
        Capture(attention=True),
    )
    log_probs = _joined(scored, start, output.logits)[0].double().cpu().numpy()
    return Rescored(changed, start + 1, log_probs, log_probs - before, _attention(output, differ, n, m))


def _neighbours_of(scored: Scored) -> Neighbours:
    if scored.neighbours is None:
        raise InputError(
            "This text was read without neighbours, so there is none to change. Score it with retrieval."
        )
    return scored.neighbours


def _encoded_anew(scored: Scored, before: Neighbours, after: Neighbours, differ: list[int]) -> Tensor:
    """(1, l, k, r, d_enc): encoded neighbours after a change; those with the tokens of one that the same
    chunk had before are taken from there."""
    encoded = scored.output.encoded.clone()
    for u in differ:
        fresh = []
        for j, tokens in enumerate(after.tokens[u]):
            same = np.flatnonzero((before.tokens[u] == tokens).all(axis=-1))
            if len(same):
                encoded[:, u, j] = scored.output.encoded[:, u, same[0]]
            elif after.mask[u, j].any():
                fresh.append(j)
        if fresh:
            ids = torch.from_numpy(after.tokens[u, fresh]).to(scored.model.device)[None, None]
            encoded[:, u, fresh] = scored.model.encode_neighbours(scored.cache, ids, first=u)[:, 0]
    return encoded


def _attention(output: RetroOutput, chunks: list[int], n: int, m: int) -> dict[int, np.ndarray]:
    weights = output.attention
    if weights is None:
        return {}
    found = weights.weights[:, 0].float().cpu().numpy()
    return {u: found[:, u - weights.first_chunk, :, : len(read_window(u, n, m))] for u in chunks}


# -------------------------------------------------------------------------------------- writing anew


def branch(
    model: Retro,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    neighbours: Neighbours,
    changes: Sequence[Change],
    retriever: Retriever | None,
    config: GenerationConfig,
    chunk: int | None = None,
) -> Iterator[GenerationEvent]:
    """Write the text anew from the end of `chunk` on, after some changes: what was read up to that chunk is
    read again as changed, later chunks are looked up with what is now written there. The events are
    `generate`'s.

    ids, neighbours  of the text and of all its complete chunks, leading axis (n // m,)
    chunk            counted from 0; the first changed one by default

    Raises InputError as `change` does, and for a chunk that does not exist. As many neighbours as the text's
    chunks have are looked up, whatever `config` says.
    """
    m = model.config.chunk_size
    changed = change(neighbours, changes, tokenizer, m)
    if chunk is None:
        rows = np.flatnonzero((changed.what != "").any(axis=1))
        if not len(rows):
            raise InputError("Nothing was changed. Make a change, or say from which chunk to go on.")
        chunk = int(rows[0])
    _ranks(neighbours, chunk)
    found = [changed.neighbours.chunks(u, u + 1) for u in range(chunk + 1)]
    config = replace(config, num_neighbours=neighbours.ids.shape[1])
    yield from generate(model, tokenizer, list(ids[: (chunk + 1) * m]), retriever, config, found=found)


def fork(
    model: Retro,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    neighbours: Neighbours,
    changes: Sequence[Change],
    retriever: Retriever | None,
    config: GenerationConfig,
    position: int,
    token: int,
) -> Iterator[GenerationEvent]:
    """Write the text anew from `position` on, where `token` stands now instead of what stood there. Chunks
    that were complete before it are read as changed; the others are looked up with what is now written there.
    The events are `generate`'s.

    ids, neighbours  of the text and of all its complete chunks, leading axis (n // m,)

    Raises InputError as `change` does, and for a position or a token that does not exist.
    """
    m, last = model.config.chunk_size, len(ids) - 1
    if not 0 < position <= last:
        raise InputError(f"Expected a position from 1 to {last} to fork at, got {position}.")
    if not 0 <= token < tokenizer.vocab_size or token in (tokenizer.pad_id, tokenizer.end_id):
        raise InputError(f"Token {token} cannot stand in a text. Choose another of the alternatives.")
    changed = change(neighbours, changes, tokenizer, m)
    found = [changed.neighbours.chunks(u, u + 1) for u in range(position // m)]
    config = replace(config, num_neighbours=neighbours.ids.shape[1])
    yield from generate(model, tokenizer, [*ids[:position], token], retriever, config, found=found)
