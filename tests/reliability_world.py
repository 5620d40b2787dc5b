"""What the reliability tests do to a datastore, and what it must then hold, told without the store's code.

Every change is also made to a plain dict of documents, chunks are cut by a loop, and neighbours found by
looking at all of them. States are compared by a hash over everything a reader can see.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from conftest import SENTENCES
from fakes import HashingEmbedder

from indexing.build import append, build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import DatastoreError
from indexing.tokenizer import Tokenizer, train_byte_level_bpe
from indexing.upkeep import compact, delete

M = 17
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
QUERIES = ("honey bees dancing", "the river flows north", "treaty signed in 1648", "Mount Etna in the world")
ABSENT = (0, "absent")

Content = dict[str, Document]


@lru_cache
def tokenizer() -> Tokenizer:
    return train_byte_level_bpe(SENTENCES * 3, vocab_size=400, name="tiny")


@lru_cache
def embedder() -> HashingEmbedder:
    return HashingEmbedder(dim=31)


def canary(number: int) -> str:
    """A word that stands in one document only, in its text, title, source and id."""
    return f"canary{number:06d}x"


def document(number: int, words: int = 60) -> Document:
    """Text `number` of an endless collection: `words` common words, more or less, and its canary."""
    rng = random.Random(number)
    chosen = [rng.choice(WORDS) for _ in range(rng.randrange(1 + words // 2, 1 + words * 2))]
    chosen.insert(rng.randrange(len(chosen)), canary(number))
    name = canary(number)
    return Document(f"id-{name}", f"Title {name}", " ".join(chosen), f"source of {name}")


def ident(number: int) -> str:
    return document(number).id


def documents(numbers: Iterable[int], words: int = 60) -> list[Document]:
    return [document(number, words) for number in numbers]


@dataclass(frozen=True)
class Step:
    """One change of a datastore: `numbers` are of documents, of about `words` words where they are new."""

    kind: str
    numbers: tuple[int, ...] = ()
    words: int = 60

    def run(self, path: Path) -> None:
        new = documents(self.numbers, self.words)
        events: Iterable = ()
        if self.kind in ("build", "replace"):
            events = build(path, new, tokenizer(), embedder(), M, replace=self.kind == "replace")
        elif self.kind == "append":
            events = append(path, new, embedder=embedder())
        elif self.kind == "delete":
            delete(path, [document.id for document in new])
        else:
            events = compact(path)
        for _ in events:
            pass

    def expect(self, content: Content) -> Content:
        """What the datastore holds after the step, by document id in order."""
        new = {document.id: document for document in documents(self.numbers, self.words)}
        if self.kind in ("build", "replace"):
            return new
        if self.kind == "append":
            return {**content, **new}
        if self.kind == "delete":
            return {name: text for name, text in content.items() if name not in new}
        return content


# A datastore with a history: two segments and a deleted document in each.
BASE = (Step("build", tuple(range(7))), Step("append", (7, 8, 9)), Step("delete", (2, 8)))

# For each operation some steps in a row, so that a kill may also fall between a commit and the next step.
CHAINS = {
    "build": (Step("build", tuple(range(5))), Step("replace", (11, 12, 13)), Step("replace", (14, 15))),
    "append": (Step("append", (20, 21)), Step("append", (22,)), Step("append", (23, 24, 25))),
    "delete": (Step("delete", (4,)), Step("delete", (0, 9)), Step("delete", (7,))),
    "compact": (Step("compact"), Step("delete", (5,)), Step("compact")),
    "migrate": (Step("append", (20,)), Step("delete", (4,))),  # of a datastore in the former format
}


def make(path: Path, steps: Sequence[Step]) -> Content:
    content: Content = {}
    for step in steps:
        step.run(path)
        content = step.expect(content)
    return content


def make_flat(path: Path) -> None:
    """A datastore in the former format: one folder of everything, with sizes and hashes in datastore.json."""
    make(path, (Step("build", tuple(range(6))),))
    (segment,) = (path / "segments").iterdir()
    for name in ("chunks", "chunk2seq", "seq2chunk", "starts", "embeddings"):
        shutil.move(segment / f"{name}.npy", path)
    texts = [document(number) for number in range(6)]
    lines = [json.dumps(vars(each), ensure_ascii=False) + "\n" for each in texts]
    (path / "documents.jsonl").write_text("".join(lines), encoding="utf-8")
    facts = json.loads((path / "datastore.json").read_text())
    shutil.rmtree(path / "segments")
    (path / "catalogue.db").unlink()
    (path / "datastore.json").unlink()
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in path.iterdir()
    }
    tokens = np.load(path / "chunks.npy")
    counts = {
        "num_documents": len(texts),
        "num_chunks": len(tokens),
        "num_tokens": int((tokens != tokenizer().pad_id).sum()),
    }
    facts = {**facts, "format_version": 1, "metric": "squared L2", **counts, "files": files}
    (path / "datastore.json").write_text(json.dumps(facts))


def state(path: Path) -> tuple[int, str]:
    """(version, sha256 over all that a reader can see) of the datastore, `ABSENT` if there is none.

    Raises what the store raises about a damaged one.
    """
    try:
        datastore = Datastore.open(path, embedder=embedder())
    except DatastoreError as error:
        if str(error).startswith("There is no datastore"):
            return ABSENT
        raise
    return datastore.version, content_hash(datastore)


def content_hash(datastore: Datastore) -> str:
    """Equal for two datastores exactly when their documents, chunks, vectors and answers are; the chunks' and
    documents' numbers do not enter it, so compaction leaves it as it is."""
    digest = hashlib.sha256()
    store, last = datastore.chunks, None
    for row in np.flatnonzero(np.asarray(datastore.alive)).tolist():
        number = int(store.chunk2seq[row])
        if number != last:
            digest.update(repr(datastore.documents[number]).encode())
            last = number
        seen = (int(store.starts[row]), datastore.text(row), datastore.continuation(row))
        digest.update(repr(seen).encode())
        digest.update(np.asarray(store.tokens[row], dtype=np.int64).tobytes())
        digest.update(np.asarray(datastore.embeddings[row]).tobytes())
    for query in QUERIES:
        for hit in datastore.search(query, 5):
            answer = (hit.document_id, hit.offset, round(hit.distance, 4), hit.text, hit.continuation)
            digest.update(repr(answer).encode())
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def cut(text: str) -> tuple[tuple[int, str, tuple[int, ...], bytes], ...]:
    """Chunks of a text, by a loop: (character it begins at, its text, its token ids, vector in float16)."""
    ids, starts = tokenizer().encode_with_offsets(text)
    ids, starts = [*ids.tolist(), tokenizer().end_id], [*starts.tolist(), len(text)]
    chunks = []
    for begin in range(0, len(ids), M):
        tokens = ids[begin : begin + M]
        until = starts[begin + M] if begin + M < len(ids) else len(text)
        vector = embedder().embed([tokenizer().decode(tokens)])[0].astype(np.float16)
        tokens += [tokenizer().pad_id] * (M - len(tokens))
        chunks.append((starts[begin], text[starts[begin] : until], tuple(tokens), vector.tobytes()))
    return tuple(chunks)


def nearest(content: Content, query: str) -> list[tuple[str, int, str, str, float]]:
    """All chunks that say something, nearest first: (document, offset, text, continuation, distance)."""
    asked = embedder().embed([query])[0]
    found = []
    for name, document in content.items():
        chunks = [*cut(document.text), (0, "", (), b"")]
        for (offset, text, tokens, vector), (_, following, _, _) in zip(chunks, chunks[1:], strict=False):
            if set(tokens) - {tokenizer().pad_id, tokenizer().end_id}:
                difference = np.frombuffer(vector, dtype=np.float16).astype(np.float32) - asked
                found.append((name, offset, text, following, float(difference @ difference)))
    return sorted(found, key=lambda answer: answer[-1])


def differs(found: list[tuple], expected: list[tuple], k: int) -> str:
    """Why `found` are not the best k of `expected`, which is all there are, nearest first; '' if they are."""
    places = {answer[:4]: answer[4] for answer in expected}
    if strange := [answer[:2] for answer in found if answer[:4] not in places]:
        return f"{strange} are not in it"
    if len({answer[:2] for answer in found}) < len(found):
        return "one chunk twice"
    distances, best = [answer[4] for answer in found], [answer[4] for answer in expected][: len(found)]
    if len(found) < min(k, len(expected)) or not np.allclose(distances, best, atol=1e-4):
        return f"distances {distances} instead of {best}"
    own = [places[answer[:4]] for answer in found]
    return "" if np.allclose(distances, own, atol=1e-4) else f"distances {distances} of chunks at {own}"
