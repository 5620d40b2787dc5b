"""Fact cards: short texts that begin like a question and go on with a value that stands in a datastore.

    Ghana — Geography          <- title of a document and, sometimes, lines before the field
    Area: total:               <- cut after any colon
     238,533 sq km; land: ...  <- what follows in the document, up to a chunk

A card is two chunks: the beginning, padded on the left as `retro_core.generation` pads a short prompt, and
what follows. Its neighbours are looked up among all chunks of the edition that it was cut from, that document
included, so the value can be read there and nowhere else: what "write what you read" is learned from. The
countries held out of training give no cards.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.files import save_array
from indexing.neighbours import NO_CHUNK
from indexing.tokenizer import Tokenizer

NEIGHBOURS_FILE = "neighbours.npy"

LINES_BEFORE = 2  # at most
VALUE_TOKENS = 3  # that have to stand in a neighbour
UNANSWERED = 0.1  # share of cards kept although no neighbour holds their value


@dataclass(frozen=True)
class Card:
    prompt: np.ndarray  # ids, at most a chunk
    rest: np.ndarray  # ids, at most a chunk


def make_cards(documents: Sequence[Document], tokenizer: Tokenizer, count: int, m: int) -> Iterator[Card]:
    """`count` cards of up to m + m tokens, cut at random places of random documents."""
    dice = random.Random(7)
    while count:
        document = dice.choice(documents)
        title, *lines = document.text.split("\n")
        if not lines:
            continue
        place = dice.randrange(len(lines))
        colons = [i for i, letter in enumerate(lines[place]) if letter == ":"]
        if not colons:
            continue
        cut = dice.choice(colons[:3]) + 1
        before = dice.choice((0, 0, 1, LINES_BEFORE))
        kept = [title, *lines[max(0, place - before) : place], lines[place][:cut]]
        prompt = tokenizer.encode("\n".join(kept))
        rest = tokenizer.encode("\n".join([lines[place][cut:], *lines[place + 1 :]]))[:m]
        if len(prompt) <= m and len(rest) > VALUE_TOKENS:
            count -= 1
            yield Card(prompt, rest)


def write_cards(folder: Path, cards: Sequence[Card], edition: Datastore, first_id: int, k: int = 4) -> int:
    """Write a shard of cards and its neighbours in `folder`; how many cards were kept.

    edition   the datastore that the cards were cut from
    first_id  what its first chunk is called in the index of the data spec
    """
    m, tokenizer = edition.chunks.chunk_size, edition.tokenizer
    asked = edition.embedder.embed([tokenizer.decode(card.prompt) for card in cards])
    found, _ = edition.nearest_vectors(asked, k)
    rows, neighbours = [], []
    dice = random.Random(8)
    for card, ids in zip(cards, found, strict=True):
        if not answered(card, edition.chunks.retrieved_tokens(ids[:2])) and dice.random() > UNANSWERED:
            continue
        both = np.full(2 * m, tokenizer.pad_id, dtype=edition.chunks.tokens.dtype)
        both[m - len(card.prompt) : m + len(card.rest)] = [*card.prompt, *card.rest]
        rows.append(both.reshape(2, m))
        neighbours.append([np.where(ids == NO_CHUNK, NO_CHUNK, ids + first_id), np.full(k, NO_CHUNK)])
    folder.mkdir(parents=True, exist_ok=True)
    save_array(folder / CHUNKS_FILE, np.concatenate(rows))
    save_array(folder / SEQ2CHUNK_FILE, np.arange(0, 2 * len(rows), 2, dtype=np.int64))
    save_array(folder / CHUNK2SEQ_FILE, np.repeat(np.arange(len(rows), dtype=np.int32), 2))
    save_array(folder / NEIGHBOURS_FILE, np.concatenate(neighbours).astype(np.int64))
    return len(rows)


def answered(card: Card, read: np.ndarray) -> bool:
    """Does the value stand in one of these neighbours, (k, r)?"""
    value = card.rest[:VALUE_TOKENS].astype(read.dtype)
    runs = np.lib.stride_tricks.sliding_window_view(read, VALUE_TOKENS, axis=-1)
    return bool((runs == value).all(axis=-1).any())
