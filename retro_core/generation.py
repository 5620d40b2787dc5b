"""Continuing a prompt, as a generator of events. Retrieval is an argument, not a branch of the model.

The rule for chunks: borders count from the start of the sequence, and a chunk is looked up as soon as it is
complete, so its neighbours are read from its last token on. A prompt shorter than one chunk is padded on the
left up to a full chunk (as NVIDIA's RETRO does), so that even three words are looked up before the first new
token; longer prompts are not padded, and their incomplete last chunk is looked up when it is full.

With a retrieval step s shorter than the chunk, the last m tokens are also looked up s, 2s, ... tokens after
each border, and what is found is read, in place of the chunk's neighbours, until the next lookup. A prompt
that ends at least s tokens after its last border is looked up at its end, whatever the step leaves over.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from indexing.chunking import num_chunks
from indexing.errors import InputError
from indexing.neighbours import Neighbours, Retriever, for_text
from indexing.tokenizer import Tokenizer
from retro_core.cache import DecodingCache
from retro_core.config import GenerationConfig
from retro_core.decoding import for_decoding
from retro_core.drafting import Drafter
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
class Refreshed:
    """Neighbours, leading axes (1,), of the last m tokens, looked up at `position` between two chunk borders:
    the next token is the first to be written with them."""

    position: int
    neighbours: Neighbours
    seconds: float


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
    """reason: "length", "end of document" or "stop string", which is then the end of the text"""

    tokens: list[int]
    reason: str
    seconds: float


GenerationEvent = Prompted | Retrieving | Retrieved | Reading | Refreshed | Token | Finished


def generate(
    model: Retro,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    retriever: Retriever | None,
    config: GenerationConfig,
    *,
    found: Sequence[Neighbours] = (),
) -> Iterator[GenerationEvent]:
    """Continue `prompt`, a text or token ids. Close the generator to stop; what was written has been yielded.

    retriever  None, or config.retrieval False, is Retro[Off].
    found      neighbours of the first chunks, each with leading axes (1,): these are not looked up
    Raises InputError if the prompt has no tokens or more than MAX_PROMPT_TOKENS, or the retrieval step does
    not fit; CheckpointError if the model's scores are no numbers.
    """
    started = time.monotonic()
    m = model.config.chunk_size
    step = config.retrieval_step or m
    if step > m:
        raise InputError(
            f"The model reads in chunks of {m} tokens, so retrieval_step can be 1 to {m}, got {step}. Lower "
            "it, or set 0 for one lookup a chunk."
        )
    ids = encode_prompt(tokenizer, prompt, m)
    pad = int((ids == tokenizer.pad_id).sum())
    tokens: list[int] = ids.tolist()
    spell = tokenizer.speller()
    yield Prompted(list(tokens), [spell(token) for token in tokens], pad)

    # Torch's generator on the processor: the same seed gives the same text on every device.
    dice = torch.Generator().manual_seed(config.seed)
    retriever = for_text(retriever, ids[:m]) if retriever is not None and config.retrieval else None
    # What is looked up between borders is read by one token at a time; and 8-bit products of several rows
    # are rounded together, so that wrong guesses would change what is right.
    most = config.draft_tokens if step == m and not config.int8 else 0
    reader = _Reader(for_decoding(model, config.int8), Drafter(most, tokenizer.pad_id))
    reader.cache.reserve(len(tokens) + config.max_new_tokens)
    looked_up, text, reason = 0, "", "length"
    for written in range(config.max_new_tokens):
        complete = num_chunks(len(tokens), m)
        while (retriever is not None or looked_up < len(found)) and looked_up < complete:
            yield Retrieving(looked_up)
            since = time.monotonic()
            if looked_up < len(found):
                new = found[looked_up]
            else:
                new = _look_up(retriever, tokens[looked_up * m : (looked_up + 1) * m], config)
            reader.add(new)
            yield Retrieved(looked_up, new, time.monotonic() - since)
            looked_up += 1
            if looked_up == complete:
                yield Reading(looked_up - 1)
        fresh = None
        beyond = len(tokens) % m
        if retriever is not None and beyond >= step and (beyond % step == 0 or written == 0):
            since = time.monotonic()
            fresh = _look_up(retriever, tokens[-m:], config)
            yield Refreshed(len(tokens), fresh, time.monotonic() - since)
        logits = reader.next_logits(tokens, fresh, config.max_new_tokens - written - 1)
        token = choose(logits, tokens, pad, tokenizer, config, dice)
        if token == tokenizer.end_id and not config.ignore_end:
            reason = "end of document"
            break
        tokens.append(token)
        piece = spell(token)
        yield Token(
            position=len(tokens) - 1,
            id=token,
            text=piece,
            logprob=float(logits[token] - logits.logsumexp(dim=-1)),
            chunk=looked_up - 1,
        )
        text += piece
        if piece and any(stop in text[-len(stop) - len(piece) :] for stop in config.stop):
            reason = "stop string"
            break
    yield Finished(list(tokens), reason, time.monotonic() - started)


def _look_up(retriever: Retriever, chunk: Sequence[int], config: GenerationConfig) -> Neighbours:
    return retriever.retrieve(np.asarray(chunk)[None], config.num_neighbours)


class _Reader:
    """A model, and what it has read of one text and its neighbours."""

    def __init__(self, model: Retro, drafter: Drafter):
        self.model = model
        self.drafter = drafter
        self.cache: DecodingCache = model.new_cache()
        self.neighbours: Tensor | None = None  # (1, l, k, r)
        self.guessed: list[int] = []  # tokens that were read in advance
        self.right = 0  # so many of them were then written
        self.ahead: Tensor | None = None  # (1 + len(guessed), v): logits of the token before them and theirs

    def add(self, neighbours: Neighbours) -> None:
        """Those of the next chunk, leading axes (1,)."""
        new = neighbour_tensor(neighbours, self.model.device)
        self.neighbours = new if self.neighbours is None else torch.cat([self.neighbours, new], dim=1)
        if self.drafter.most:
            self.drafter.learn(neighbours.tokens.reshape(-1, neighbours.tokens.shape[-1]).tolist())

    @torch.inference_mode()
    def next_logits(self, tokens: list[int], fresh: Neighbours | None, room: int) -> Tensor:
        """Logits (v,) of the token after `tokens`, of which those not yet read are read now, and with them up
        to `room` that may follow. On the processor: the one time that makes it wait for the device."""
        if self.right < len(self.guessed):
            if tokens[-1] == self.guessed[self.right]:
                self.right += 1
                return self.ahead[self.right]
            self.cache.crop(len(tokens) - 1)
        if self.guessed:
            self.drafter.judge(len(self.guessed), self.right)
        device, m = self.model.device, self.model.config.chunk_size
        fresh_ids = None if fresh is None else neighbour_tensor(fresh, device)[:, 0]
        # What completes a chunk is written before it is read, as its neighbours are read with it.
        room = min(room, m - 1 - len(tokens) % m)
        self.guessed, self.right = self.drafter.guess(tokens, room), 0
        new = torch.tensor([tokens[self.cache.length :] + self.guessed], device=device)
        if fresh_ids is not None and new.shape[1] > 1:  # they are for the last token alone
            self._read(new[:, :-1], len(tokens) - 1)
            new = new[:, -1:]
        self.ahead = self._read(new, len(tokens), fresh_ids).float().cpu()
        return self.ahead[0]

    def _read(self, new: Tensor, total: int, fresh_ids: Tensor | None = None) -> Tensor:
        """total  tokens of the text without the guessed ones -> logits of its last token and of these"""
        known = self.neighbours
        if known is not None:
            known = known[:, : total // self.model.config.chunk_size]
        keep = 1 + len(self.guessed)
        return self.model(new, known, cache=self.cache, logits_to_keep=keep, fresh_ids=fresh_ids).logits[0]


def encode_prompt(tokenizer: Tokenizer, prompt: str | Sequence[int], chunk_size: int) -> np.ndarray:
    """Token ids (n,) of a prompt, padded on the left if it is shorter than a chunk."""
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else np.asarray(prompt, dtype=np.int64)
    if not len(ids):
        raise InputError("The prompt is empty. Type the beginning of a text to continue.")
    if len(ids) > MAX_PROMPT_TOKENS:
        raise InputError(
            f"The prompt has {len(ids):,} tokens, up to {MAX_PROMPT_TOKENS:,} fit. Shorten it, or build a "
            "datastore of the long text and ask about it."
        )
    missing = max(0, chunk_size - len(ids))
    return np.concatenate([np.full(missing, tokenizer.pad_id, dtype=ids.dtype), ids])


def choose(
    logits: Tensor,
    tokens: list[int],
    pad: int,
    tokenizer: Tokenizer,
    config: GenerationConfig,
    dice: torch.Generator,
) -> int:
    """logits (v,) -> the next token: penalties, then temperature, top-k, top-p, min-p, then a draw."""
    check_logits(logits)
    logits = penalised(logits, tokens[pad:], tokenizer.end_id, config)
    if tokenizer.pad_id != tokenizer.end_id:  # one token may be both
        logits[tokenizer.pad_id] = -torch.inf
    if config.temperature == 0:
        return int(logits.argmax())
    logits = (logits - logits.max()) / config.temperature  # at most 0: no temperature is too small
    count = min(config.top_k or len(logits), len(logits))
    values, candidates = logits.topk(count)
    probabilities = values.softmax(dim=-1)
    # Keep the token that crosses top_p, so that at least one stays.
    beyond = probabilities.cumsum(dim=-1) - probabilities >= config.top_p
    probabilities[beyond | (probabilities < config.min_p * probabilities[0])] = 0
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
