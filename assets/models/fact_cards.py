"""Fact cards: short texts that begin like a question and go on with a value that stands in a datastore.

    Ghana — Geography          <- title of a document and, sometimes, lines before the field
    Area: total:               <- cut after a colon
     238,533 sq km; land: ...  <- what follows in the document, up to a chunk

A card is two chunks: the beginning, padded on the left as `retro_core.generation` pads a short prompt, and
what follows. Its neighbours are chunks of the edition that it was cut from, that document included, so the
value can be read there and nowhere else: what "write what you read" is learned from. The countries held out
of training give no cards, and are in none's neighbours.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.files import save_array
from indexing.neighbours import NO_CHUNK

NEIGHBOURS_FILE = "neighbours.npy"
NEIGHBOURS = 4  # of each card
LINES_BEFORE = 2  # at most
VALUE_TOKENS = 3  # that have to stand in a neighbour
UNANSWERED = 0.1  # share of cards kept although no neighbour holds their value
LATER_COLON = 0.25  # share of passages cut after their second colon, "Population: total:"
TURNED = 0.15  # share of passages that come second among their neighbours, not first


@dataclass(frozen=True)
class Card:
    """prompt, rest: ids, at most a chunk each · neighbours (k,) of the prompt, chunks of the edition"""

    prompt: np.ndarray
    rest: np.ndarray
    neighbours: np.ndarray


def cut_cards(edition: Datastore, count: int) -> list[Card]:
    """Of `count` cards, cut at random places of random documents, those whose value can be read, and a few
    others."""
    m, tokenizer, dice = edition.chunks.chunk_size, edition.tokenizer, random.Random(7)
    cut: list[tuple[np.ndarray, np.ndarray]] = []
    while len(cut) < count:
        title, *lines = dice.choice(edition.documents).text.split("\n")
        if not lines:
            continue
        place = dice.randrange(len(lines))
        colons = [i for i, letter in enumerate(lines[place]) if letter == ":"]
        if not colons:
            continue
        end = dice.choice(colons[:3]) + 1
        before = dice.choice((0, 0, 1, LINES_BEFORE))
        prompt = "\n".join([title, *lines[max(0, place - before) : place], lines[place][:end]])
        rest = "\n".join([lines[place][end:], *lines[place + 1 :]])
        ids = tokenizer.encode(prompt), tokenizer.encode(rest)[:m]
        if len(ids[0]) <= m and len(ids[1]) > VALUE_TOKENS:
            cut.append(ids)
    asked = edition.embedder.embed([tokenizer.decode(prompt) for prompt, _ in cut])
    found, _ = edition.nearest_vectors(asked, NEIGHBOURS)
    dice = random.Random(8)
    cards = [Card(*ids, near) for ids, near in zip(cut, found, strict=True)]
    return [card for card in cards if _answered(card, edition) or dice.random() < UNANSWERED]


def passage_cards(edition: Datastore, is_held_out: Callable[[Document], bool]) -> list[Card]:
    """A card of each document that is a passage of one chunk; its neighbours are the passage and, instead of
    the prompt's next nearest, the passage's own."""
    m, tokenizer, dice = edition.chunks.chunk_size, edition.tokenizer, np.random.default_rng(0)
    documents, owners = list(edition.documents), np.asarray(edition.chunks.chunk2seq)
    usable = np.array([not is_held_out(document) for document in documents])
    others, _ = edition.nearest_vectors(
        np.asarray(edition.embeddings[:], dtype=np.float32), NEIGHBOURS - 1, owners, usable[owners]
    )
    cards = []
    for number in np.flatnonzero(usable):
        title, _, field = documents[number].text.partition("\n")
        colons = [i for i, letter in enumerate(field) if letter == ":"]
        second = dice.random() < LATER_COLON and len(colons) > 1
        end = colons[1 if second else 0] + 1
        prompt = tokenizer.encode(f"{title}\n{field[:end]}")
        rest = np.append(tokenizer.encode(field[end:]), tokenizer.end_id)[:m]
        chunk = int(edition.chunks.seq2chunk[number])
        near = np.array([chunk, *others[chunk]])
        if dice.random() < TURNED:
            near[:2] = near[1::-1]
        if len(prompt) <= m and len(rest) > 1:
            cards.append(Card(prompt, rest, near))
    return cards


def write_cards(folder: Path, cards: Sequence[Card], edition: Datastore, first_id: int) -> None:
    """Write a shard of cards with its neighbours into `folder`.

    first_id  what the edition's first chunk is called in the index of the data spec
    """
    m, pad_id, kind = edition.chunks.chunk_size, edition.tokenizer.pad_id, edition.chunks.tokens.dtype
    chunks = np.full((len(cards), 2 * m), pad_id, dtype=kind)
    neighbours = np.full((len(cards), 2, NEIGHBOURS), NO_CHUNK, dtype=np.int64)
    for row, card in enumerate(cards):
        chunks[row, m - len(card.prompt) : m] = card.prompt
        chunks[row, m : m + len(card.rest)] = card.rest
        neighbours[row, 0] = np.where(card.neighbours == NO_CHUNK, NO_CHUNK, card.neighbours + first_id)
    folder.mkdir(parents=True, exist_ok=True)
    save_array(folder / CHUNKS_FILE, chunks.reshape(-1, m))
    save_array(folder / SEQ2CHUNK_FILE, np.arange(0, 2 * len(cards), 2, dtype=np.int64))
    save_array(folder / CHUNK2SEQ_FILE, np.repeat(np.arange(len(cards), dtype=np.int32), 2))
    save_array(folder / NEIGHBOURS_FILE, neighbours.reshape(-1, NEIGHBOURS))


def _answered(card: Card, edition: Datastore) -> bool:
    """Does the value stand in one of the first two neighbours?"""
    read = edition.chunks.retrieved_tokens(card.neighbours[:2])
    runs = np.lib.stride_tricks.sliding_window_view(read, VALUE_TOKENS, axis=-1)
    return bool((runs == card.rest[:VALUE_TOKENS]).all(axis=-1).any())
