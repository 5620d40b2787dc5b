"""One document of a gigabyte: memory stays bounded, progress shows, and a stop is obeyed at once."""

import contextlib
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from reliability_worker import amount, in_a_child
from reliability_world import WORDS

from indexing import paths
from indexing.build import build
from indexing.corpus import Document, read_files
from indexing.datastore import Datastore
from indexing.tokenizer import Tokenizer

MEGABYTES = amount(12, 1024)
MOST_MEMORY = 600 << 20  # bytes; there is no model in it
LONGEST_WAIT = 2.0  # seconds


class LengthEmbedder:
    """As little work as an embedder can be: two numbers from a text's length."""

    name = fingerprint = "length"
    dim = 2

    def embed(self, texts):
        angles = np.array([len(text) for text in texts], dtype=np.float32)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


class InOnePiece(Document):
    def pieces(self) -> Iterator[str]:
        yield self.text


def write_huge(path: Path, megabytes: int) -> None:
    """A text of so many megabytes whose lines are numbered, so that none is like another."""
    rng = random.Random(8)
    lines = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 30))) for _ in range(1000)]
    with open(path, "w", encoding="utf-8") as file:
        number = 0
        while file.tell() < megabytes << 20:
            for line in lines:
                file.write(f"{number} {line}\n")
                number += 1


def build_huge(file: Path, path: Path, stop_after: int | None = None, whole: bool = False) -> dict:
    """Build a datastore of one file, or stop after some events: what it took in bytes, seconds and events.

    whole  the document comes in one piece
    """
    tokenizer = Tokenizer.load(paths.ASSETS / "datastores" / "factbook")
    documents = read_files([file])
    if whole:
        documents = (InOnePiece(each.id, each.title, each.text, each.source) for each in documents)
    events = build(path, documents, tokenizer, LengthEmbedder())
    longest: dict[str, float] = {}  # stage -> seconds between two events
    count, before = 0, seconds_running()
    for event in events:
        now = seconds_running()
        longest[event.stage] = max(longest.get(event.stage, 0.0), now - before)
        before = now
        count += 1
        if count == stop_after:
            break
    before = seconds_running()
    events.close()
    return {
        "longest": longest,
        "count": count,
        "closing": seconds_running() - before,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def seconds_running() -> float:
    """Time, less what this thread has waited for a processor that others had."""
    waited = 0
    with contextlib.suppress(OSError):
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return time.monotonic() - waited / 1e9


@pytest.mark.reliability
def test_memory_is_bounded_progress_shows_and_a_stop_is_obeyed(tmp_path):
    file, path = tmp_path / "huge.txt", tmp_path / "notes"
    write_huge(file, MEGABYTES)
    begin = time.monotonic()
    whole = in_a_child(build_huge, file, path, timeout=7200)
    print(f"{MEGABYTES} MB in {time.monotonic() - begin:.0f} s: {whole}")
    assert whole["memory"] <= MOST_MEMORY
    assert max(whole["longest"].values()) <= LONGEST_WAIT, whole["longest"]
    compare(file, Datastore.open(path, embedder=LengthEmbedder()))
    for share in (0.02, 0.9):
        after = int(share * whole["count"])
        stopped = in_a_child(build_huge, file, tmp_path / "stopped", after, timeout=7200)
        assert stopped["closing"] + max(whole["longest"].values()) <= LONGEST_WAIT, stopped
        assert not [each.name for each in tmp_path.iterdir() if "stopped" in each.name and each.is_dir()]


@pytest.mark.reliability
def test_a_document_in_one_piece_keeps_everybody_waiting(tmp_path):
    """The control."""
    write_huge(tmp_path / "huge.txt", 12)
    took = in_a_child(build_huge, tmp_path / "huge.txt", tmp_path / "notes", 3, True, timeout=600)
    assert max(took["longest"].values()) > LONGEST_WAIT


def compare(file: Path, datastore: Datastore) -> None:
    """The first, a middle and the last but one chunk say what stands there in the file."""
    assert datastore.num_documents == 1
    for row in (0, len(datastore.chunks) // 2, len(datastore.chunks) - 2):
        with open(file, encoding="utf-8") as text:
            left = int(datastore.chunks.starts[row])
            while left:
                left -= len(text.read(min(left, 1 << 20)))
            expected = datastore.text(row)
            assert text.read(len(expected)) == expected != ""
