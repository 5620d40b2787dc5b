"""A datastore read by a model with another tokenizer: what is looked up, and what is found, crosses as text.

The datastore keeps its own chunks, so a neighbour is the text of one of them and its continuation that of the
next. In the model's tokens each of the two may be longer or shorter than the model's chunk: it is cut, or
padded, to m tokens, so that the neighbour is always in the first m and the continuation in the second. For
training build a datastore with the model's own tokenizer; there nothing is cut.
"""

from pathlib import Path

import numpy as np

from indexing.datastore import Datastore, Provenance
from indexing.embedder import Embedder
from indexing.neighbours import NO_CHUNK, Neighbours
from indexing.tokenizer import Tokenizer

RETOKENISED = " (texts retokenised)"  # how the names of such datastores end


class RetokenisedDatastore:
    """A `Retriever` over `datastore` for a model with `tokenizer` and chunks of `chunk_size` tokens.

    Ids are the datastore's own, so provenance and texts are found in either. Safe to use from several
    threads.
    """

    num_continuations = 1

    def __init__(self, datastore: Datastore, tokenizer: Tokenizer, chunk_size: int):
        self.datastore, self.tokenizer, self.chunk_size = datastore, tokenizer, chunk_size
        self.name = datastore.name + RETOKENISED
        self.path, self.fingerprint = datastore.path, datastore.fingerprint
        self.chunks, self.documents = datastore.chunks, datastore.documents

    @property
    def embedder_name(self) -> str:
        return self.datastore.embedder_name

    @property
    def num_documents(self) -> int:
        return self.datastore.num_documents

    def retrieve(
        self, chunks: np.ndarray, num_neighbours: int, exclude_documents: np.ndarray | None = None
    ) -> Neighbours:
        """See `Datastore.retrieve`; chunks (..., m) are the model's tokens, and so are the neighbours'."""
        chunks = np.asarray(chunks)
        shape = chunks.shape[:-1]
        texts = [self.tokenizer.decode(chunk) for chunk in chunks.reshape(-1, chunks.shape[-1])]
        exclude = None
        if exclude_documents is not None:
            exclude = np.broadcast_to(exclude_documents, shape).reshape(-1)
        ids, distances = self.datastore.nearest(texts, num_neighbours, exclude)
        ids, distances = (found.reshape(*shape, num_neighbours) for found in (ids, distances))
        return Neighbours(ids, distances, self.retrieved_tokens(ids), self.tokenizer.pad_id)

    def retrieved_tokens(self, ids: np.ndarray) -> np.ndarray:
        """ids (..., k) -> (..., k, 2m): the chunks and what follows them, in the model's tokens."""
        m = self.chunk_size
        tokens = np.full((*ids.shape, 2 * m), self.tokenizer.pad_id, dtype=np.int64)
        for place in np.argwhere(ids != NO_CHUNK):
            chunk_id = int(ids[tuple(place)])
            halves = (self.datastore.text(chunk_id), self.datastore.continuation(chunk_id))
            for start, text in zip((0, m), halves, strict=True):
                found = self.tokenizer.encode(text)[:m]
                tokens[(*place, slice(start, start + len(found)))] = found
        return tokens

    def provenance(self, chunk_id: int) -> Provenance:
        return self.datastore.provenance(chunk_id)

    def text(self, chunk_id: int) -> str:
        return self.datastore.text(chunk_id)


def open_for(
    name_or_path: str | Path, tokenizer: Tokenizer, chunk_size: int, embedder: Embedder | None = None
) -> Datastore | RetokenisedDatastore:
    """Open a datastore for a model to read from: as it is if it was made with the model's tokenizer,
    retokenised otherwise.

    Raises what `Datastore.open` does, but no MismatchError for a tokenizer.
    """
    datastore = Datastore.open(name_or_path, embedder=embedder)
    if datastore.tokenizer.fingerprint == tokenizer.fingerprint:
        return datastore
    return RetokenisedDatastore(datastore, tokenizer, chunk_size)
