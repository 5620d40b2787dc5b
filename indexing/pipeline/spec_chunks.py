"""The chunks of an index spec as a text collection: to be looked into by words, by tokens or by chance.

A datastore knows its documents' texts; an index spec's files are chunks and embeddings alone. With the
tokenizer that the chunks were made with their texts can be told, which is all that `ranking.Words` and
`ranking.Drawn` need.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indexing.chunks import ChunkStore
from indexing.errors import InputError
from indexing.pipeline.specs import CHUNK_KEYS, INDEX_KEYS, open_chunks, open_embeddings, read_index_spec
from indexing.segment import stacked
from indexing.tokenizer import Tokenizer


class SpecChunks:
    """The shards of an index spec laid end to end; chunks and documents are numbered through all of them, as
    the neighbours of a data spec are.

    name        for messages
    chunks      of all shards
    tokenizer   that they were made with
    num_continuations  chunks after a neighbour that are read with it
    alive       (N,) bool, all True: nothing is ever deleted from a spec
    embeddings  (N, d) array-like, None where the spec has none
    """

    state = None  # no catalogue: what is made for it is kept in a temporary folder
    fingerprint = "chunks of an index spec"

    def __init__(
        self,
        name: str,
        shards: Sequence[ChunkStore],
        tokenizer: Tokenizer,
        num_continuations: int = 1,
        embeddings: Sequence[np.ndarray] = (),
    ):
        documents = np.cumsum([0, *(store.num_documents for store in shards)])
        starts = np.cumsum([0, *map(len, shards)])
        self.name, self.path, self.tokenizer = name, Path(name), tokenizer
        self.num_continuations = num_continuations
        self.chunks = ChunkStore(
            tokens=stacked([store.tokens for store in shards]),
            chunk2seq=np.concatenate(
                [s.chunk2seq + first for s, first in zip(shards, documents, strict=False)]
            ),
            seq2chunk=np.concatenate([s.seq2chunk + first for s, first in zip(shards, starts, strict=False)]),
            starts=np.broadcast_to(np.int64(-1), int(starts[-1])),
            pad_id=tokenizer.pad_id,
        )
        self.embeddings = stacked(list(embeddings)) if embeddings else None
        self.alive = np.ones(len(self.chunks), dtype=bool)

    @classmethod
    def open(cls, spec: Path, tokenizer: Tokenizer) -> "SpecChunks":
        """Raises InputError if the spec or one of its files cannot be read."""
        shards = [open_chunks(shard, tokenizer.pad_id) for shard in read_index_spec(spec, CHUNK_KEYS)]
        try:
            embeddings = open_embeddings(read_index_spec(spec, INDEX_KEYS), spec)
        except InputError:  # words and tokens can be looked for without
            embeddings = []
        return cls(str(spec), shards, tokenizer, embeddings=embeddings)
