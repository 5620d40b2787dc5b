"""Prompts that have an answer: what is read before it, what the model writes, how likely the answer is.

A prompt is padded on the left until it ends with a chunk. So its last chunk is looked up as a whole, and the
first token of the answer is already written with those neighbours: for question answering this is the layout
of Borgeaud et al. 2021 (section 4.3 and appendix: "answer:" is the end of the first chunk), and for a prompt
shorter than a chunk it is what `retro_core.generation` does anyway.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from indexing.chunking import num_chunks
from indexing.errors import InputError
from indexing.neighbours import Neighbours, Retriever, for_text, retrieve_each
from indexing.tokenizer import Tokenizer
from retro_core.decoding import for_decoding
from retro_core.functions import IGNORED_LABEL
from retro_core.inputs import check_logits
from retro_core.model import Retro, neighbour_tensor

_BATCH_TOKENS = 4096  # tokens of texts that are scored at once; neighbours come on top
_LOOKED_UP_AT_ONCE = 256


@dataclass(frozen=True)
class Scoring:
    """A text whose tokens from number `first` on are the answer; ids (n,), padding on the left included."""

    ids: np.ndarray
    first: int


def padded(ids: np.ndarray, chunk_size: int, pad_id: int) -> np.ndarray:
    """Token ids (n,) with padding on the left, to whole chunks."""
    missing = -len(ids) % chunk_size
    return np.concatenate([np.full(missing, pad_id, dtype=np.int64), np.asarray(ids, dtype=np.int64)])


def scoring(tokenizer: Tokenizer, prompt: str, between: str, answer: str, chunk_size: int) -> Scoring:
    """`prompt`, `between` and `answer` as one text. Only the answer's tokens are scored, a blank before it
    included, which belongs to its first token."""
    ids, starts = tokenizer.encode_with_offsets(prompt + between + answer)
    asked = len(tokenizer.encode(prompt))
    at = len(prompt + between)
    first = int(np.searchsorted(starts, at, side="right")) - 1  # the token that holds the answer's beginning
    missing = -asked % chunk_size
    ids = np.concatenate([np.full(missing, tokenizer.pad_id, dtype=np.int64), ids])
    return Scoring(ids, missing + max(first, asked))


def read_with(
    retriever: Retriever, prompts: Sequence[np.ndarray], num_neighbours: int, chunk_size: int
) -> Iterator[Neighbours]:
    """What each prompt (n,), of whole chunks, retrieves, leading axis (n / m,); looked up many at a time."""
    chunks = np.concatenate([ids.reshape(-1, chunk_size) for ids in prompts])
    first_chunks = np.concatenate([np.tile(ids[:chunk_size], (len(ids) // chunk_size, 1)) for ids in prompts])
    starts = range(0, len(chunks), _LOOKED_UP_AT_ONCE)
    at_once = [slice(start, start + _LOOKED_UP_AT_ONCE) for start in starts]
    parts = [retrieve_each(retriever, first_chunks[rows], chunks[rows], num_neighbours) for rows in at_once]
    found, start = Neighbours.joined(parts), 0
    for ids in prompts:
        stop = start + len(ids) // chunk_size
        yield found.chunks(start, stop)
        start = stop


def texts_of(found: Neighbours, tokenizer: Tokenizer) -> list[str]:
    """What the k neighbours of the last chunk say, each with its continuation; of missing ones nothing."""
    return [tokenizer.decode(tokens[tokens != found.pad_id]) for tokens in found.tokens[-1]]


@torch.inference_mode()
def written(
    model: Retro,
    tokenizer: Tokenizer,
    prompts: Sequence[np.ndarray],
    found: Sequence[Neighbours | None],
    retriever: Retriever | None,
    max_new_tokens: int,
) -> list[str]:
    """What the model goes on with, greedy, to the end of the line: what `generate` with temperature 0 and the
    stop string "\\n" writes, less the line's end, for many prompts at a time.

    prompts  (n,) each, of whole chunks
    found    of each prompt's chunks, leading axis (n / m,); None for Retro[Off]. The retriever is asked about
             chunks that are completed later.
    """
    texts = [""] * len(prompts)
    for length in sorted({len(ids) for ids in prompts}):
        alike = [number for number, ids in enumerate(prompts) if len(ids) == length]
        at_once = max(1, _BATCH_TOKENS // (length + max_new_tokens))
        for start in range(0, len(alike), at_once):
            some = alike[start : start + at_once]
            lines = _lines(
                for_decoding(model),
                tokenizer,
                np.stack([prompts[number] for number in some]),
                [found[number] for number in some],
                retriever,
                max_new_tokens,
            )
            for number, line in zip(some, lines, strict=True):
                texts[number] = line
    return texts


def _lines(
    model: Retro,
    tokenizer: Tokenizer,
    ids: np.ndarray,
    found: Sequence[Neighbours | None],
    retriever: Retriever | None,
    max_new_tokens: int,
) -> list[str]:
    """Lines that follow prompts (b, n) of one length, so that their chunks are complete at the same time."""
    m, cache = model.config.chunk_size, model.new_cache()
    spell = [tokenizer.speller() for _ in ids]
    for row, each in zip(ids, spell, strict=True):
        for token in row:
            each(token)
    lines, open_ = [""] * len(ids), set(range(len(ids)))
    tokens, new = ids, ids
    for _ in range(max_new_tokens):
        if found[0] is not None and tokens.shape[1] % m == 0:
            found = [
                _completed(f, row, len(row) // m, m, retriever) for f, row in zip(found, tokens, strict=True)
            ]
        logits = model(
            torch.from_numpy(new).to(model.device), _read(found, model), cache=cache, logits_to_keep=1
        ).logits[:, -1]
        check_logits(logits)
        if tokenizer.pad_id != tokenizer.end_id:
            logits[:, tokenizer.pad_id] = -torch.inf
        new = logits.argmax(dim=-1, keepdim=True).cpu().numpy()
        tokens = np.concatenate([tokens, new], axis=1)
        for row in sorted(open_):
            lines[row] += spell[row](new[row, 0])
            if new[row, 0] == tokenizer.end_id or "\n" in lines[row]:
                open_.remove(row)
        if not open_:
            break
    return [line.partition("\n")[0] for line in lines]


def _read(found: Sequence[Neighbours | None], model: Retro) -> Tensor | None:
    """(b, l, k, r) of b texts; None for Retro[Off]."""
    if found[0] is None:
        return None
    return torch.cat([neighbour_tensor(neighbours, model.device) for neighbours in found])


@torch.inference_mode()
def answer_nats(
    model: Retro, texts: Sequence[Scoring], found: Sequence[Neighbours | None], retriever: Retriever | None
) -> np.ndarray:
    """Nats (n,) float64 of each text's answer: minus the log probability of its tokens, summed.

    found  of each text's first chunks, leading axis (chunks,), None for Retro[Off]; where the answer
           completes a chunk, the retriever is asked about it
    """
    m, nats = model.config.chunk_size, np.zeros(len(texts))
    # Texts of one length at a time need no padding at their end.
    for length in sorted({len(text.ids) for text in texts}):
        alike = [number for number, text in enumerate(texts) if len(text.ids) == length]
        at_once = max(1, _BATCH_TOKENS // length)
        for start in range(0, len(alike), at_once):
            some = alike[start : start + at_once]
            ids = np.stack([texts[number].ids for number in some])
            known = [
                _completed(found[number], texts[number].ids, num_chunks(length, m), m, retriever)
                for number in some
            ]
            labels = np.full(ids.shape, IGNORED_LABEL)
            for row, number in enumerate(some):
                labels[row, texts[number].first - 1 : -1] = ids[row, texts[number].first :]
            out = model(
                torch.from_numpy(ids).to(model.device),
                _read(known, model),
                torch.from_numpy(labels).to(model.device),
                loss_reduction="none",
                logits_to_keep=None,
            )
            nats[some] = out.loss.double().sum(dim=1).cpu().numpy()
    return nats


def _completed(
    found: Neighbours | None, ids: np.ndarray, count: int, m: int, retriever: Retriever | None
) -> Neighbours | None:
    """Neighbours of all `count` complete chunks of a text."""
    if found is None or len(found.ids) >= count or retriever is None:
        return found
    later = ids[len(found.ids) * m : count * m].reshape(-1, m)
    return found.followed_by(for_text(retriever, ids[:m]).retrieve(later, found.ids.shape[-1]))


def read_lines(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a JSON-lines file, each with words that tell where it stands.

    what  "questions" or "prompts", for the message

    Raises InputError for a file that cannot be read, a line that is no JSON object, and an empty file.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Cannot read the {what} from {path}: {error}. Expected JSON lines in UTF-8."
        ) from error
    some = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: expected an object like {{...}}, got {line[:40]!r}.")
        some = True
        yield f"{path}, line {number}", row
    if not some:
        raise InputError(f"{path} holds no {what}. Expected one JSON object a line.")


def text_of(row: dict[str, Any], key: str, where: str) -> str:
    """Raises InputError unless `row[key]` is a text that says something."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: expected a text {key!r}, got {value!r}.")
    return value


def texts_in(value: Any, key: str, where: str) -> tuple[str, ...]:
    """Raises InputError unless `value` is a list of at least one text."""
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise InputError(f"{where}: expected {key} to be a list of one text or more, got {value!r}.")
    return tuple(value)
