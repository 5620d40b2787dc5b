"""Continuing a prompt, as a generator of events. Retrieval is an argument, not a branch of the model.

The rule for chunks: borders count from the start of the sequence, and a chunk is looked up as soon as it is
complete, so its neighbours are read from its last token on. A prompt shorter than one chunk is padded on the
left up to a full chunk (as NVIDIA's RETRO does), so that even three words are looked up before the first new
token; longer prompts are not padded, and their incomplete last chunk is looked up when it is full.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from indexing.chunking import num_chunks
from indexing.errors import InputError
from indexing.neighbours import Neighbours, Retriever
from indexing.tokenizer import Tokenizer
from retro_core.config import GenerationConfig
from retro_core.inputs import check_logits
from retro_core.model import Retro, neighbour_tensor

MAX_PROMPT_TOKENS = 4096  # attention looks at all pairs: some GB at this length


@dataclass(frozen=True)
class Prompted:
    """The prompt as tokens; the first `pad` of them are padding."""

    tokens: list[int]
    texts: list[str]
    pad: int


@dataclass(frozen=True)
class Retrieving:
    chunk: int


@dataclass(frozen=True)
class Retrieved:
    """neighbours of one chunk, leading axes (1,) · seconds spent looking them up"""

    chunk: int
    neighbours: Neighbours
    seconds: float


@dataclass(frozen=True)
class Reading:
    """The model is about to read the neighbours of `chunk` for the first time."""

    chunk: int


@dataclass(frozen=True)
class Token:
    """One new token. text is what it adds to the text, nothing while a character is not complete · logprob in
    nats under the model itself, before temperature and filters · chunk: the one whose neighbours it was
    written with, -1 for none"""

    position: int
    id: int
    text: str
    logprob: float
    chunk: int


@dataclass(frozen=True)
class Finished:
    """reason: "length" or "end of document" """

    tokens: list[int]
    reason: str
    seconds: float


GenerationEvent = Prompted | Retrieving | Retrieved | Reading | Token | Finished


def generate(
    model: Retro, tokenizer: Tokenizer, prompt: str, retriever: Retriever | None, config: GenerationConfig
) -> Iterator[GenerationEvent]:
    """Continue `prompt`. Close the generator to stop; what was written has been yielded.

    retriever  None, or config.retrieval False, is Retro[Off].
    Raises InputError if the prompt has no tokens or more than MAX_PROMPT_TOKENS.
    """
    started = time.monotonic()
    m = model.config.chunk_size
    ids = encode_prompt(tokenizer, prompt, m)
    pad = int((ids == tokenizer.pad_id).sum())
    tokens: list[int] = ids.tolist()
    spell = tokenizer.speller()
    yield Prompted(list(tokens), [spell(token) for token in tokens], pad)

    # Torch's generator on the processor: the same seed gives the same text on every device.
    dice = torch.Generator().manual_seed(config.seed)
    retriever = retriever if config.retrieval else None
    found: Neighbours | None = None  # of the chunks looked up so far
    encoded: Tensor | None = None
    looked_up = 0
    reason = "length"
    for _ in range(config.max_new_tokens):
        complete = num_chunks(len(tokens), m)
        while retriever is not None and looked_up < complete:
            yield Retrieving(looked_up)
            since = time.monotonic()
            query = np.asarray(tokens[looked_up * m : (looked_up + 1) * m])[None]
            new = retriever.retrieve(query, config.num_neighbours)
            found = new if found is None else found.followed_by(new)
            yield Retrieved(looked_up, new, time.monotonic() - since)
            looked_up += 1
            if looked_up == complete:
                yield Reading(looked_up - 1)
        logits, encoded = _next_logits(model, tokens, found, encoded)
        token = choose(logits, tokens, pad, tokenizer, config, dice)
        if token == tokenizer.end_id and not config.ignore_end:
            reason = "end of document"
            break
        tokens.append(token)
        yield Token(
            position=len(tokens) - 1,
            id=token,
            text=spell(token),
            logprob=float(logits.log_softmax(dim=-1)[token]),
            chunk=looked_up - 1,
        )
    yield Finished(list(tokens), reason, time.monotonic() - started)


def encode_prompt(tokenizer: Tokenizer, prompt: str, chunk_size: int) -> np.ndarray:
    """Token ids (n,) of a prompt, padded on the left if it is shorter than a chunk."""
    ids = tokenizer.encode(prompt)
    if not len(ids):
        raise InputError("The prompt is empty. Type the beginning of a text to continue.")
    if len(ids) > MAX_PROMPT_TOKENS:
        raise InputError(
            f"The prompt has {len(ids):,} tokens, up to {MAX_PROMPT_TOKENS:,} fit. Shorten it, or build a "
            "datastore of the long text and ask about it."
        )
    missing = max(0, chunk_size - len(ids))
    return np.concatenate([np.full(missing, tokenizer.pad_id, dtype=ids.dtype), ids])


@torch.inference_mode()
def _next_logits(
    model: Retro, tokens: list[int], found: Neighbours | None, encoded: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Logits (v,) of the next token, and the encoded neighbours to hand in again with the next call."""
    ids = torch.tensor([tokens], device=model.device)
    read = None if found is None else neighbour_tensor(found, model.device)
    out = model(ids, read, encoded=encoded)
    return out.logits[0, -1].float().cpu(), out.encoded


def choose(
    logits: Tensor,
    tokens: list[int],
    pad: int,
    tokenizer: Tokenizer,
    config: GenerationConfig,
    dice: torch.Generator,
) -> int:
    """logits (v,) -> the next token: penalties, then temperature, top-k, top-p, then a draw."""
    check_logits(logits)
    logits = penalised(logits, tokens[pad:], tokenizer.end_id, config)
    logits[tokenizer.pad_id] = -torch.inf
    if config.temperature == 0:
        return int(logits.argmax())
    logits = (logits - logits.max()) / config.temperature  # at most 0: no temperature is too small
    count = min(config.top_k or len(logits), len(logits))
    values, candidates = logits.topk(count)
    probabilities = values.softmax(dim=-1)
    # Keep the token that crosses top_p, so that at least one stays.
    beyond = probabilities.cumsum(dim=-1) - probabilities >= config.top_p
    probabilities[beyond] = 0
    return int(candidates[torch.multinomial(probabilities, 1, generator=dice)])


def penalised(logits: Tensor, written: list[int], end_id: int, config: GenerationConfig) -> Tensor:
    """logits (v,) of the token after `written` -> a copy with what `config` forbids or makes less likely, by
    Hugging Face's rules."""
    logits = logits.clone()
    if config.repetition_penalty != 1.0:
        used = torch.tensor(sorted(set(written)))
        # The penalty makes a used token less likely whatever the sign of its logit.
        values, penalty = logits[used], config.repetition_penalty
        logits[used] = torch.where(values > 0, values / penalty, values * penalty)
    if config.no_repeat_ngram_size:
        logits[repeating(written, config.no_repeat_ngram_size)] = -torch.inf
    if config.ignore_end or len(written) < config.min_length:
        logits[end_id] = -torch.inf
    return logits


def repeating(tokens: list[int], size: int) -> list[int]:
    """Tokens that would complete a run of `size` tokens that occurred before."""
    if len(tokens) < size:
        return []
    start = tokens[len(tokens) - size + 1 :]
    runs = (tokens[i : i + size] for i in range(len(tokens) - size + 1))
    return sorted({run[-1] for run in runs if run[:-1] == start})
