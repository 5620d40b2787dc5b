"""One document of a gigabyte: memory stays bounded, progress shows, and a stop is obeyed at once."""

import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from reliability_worker import amount, in_a_child
from reliability_world import WORDS

from indexing import paths
from indexing.build import build
from indexing.corpus import read_files
from indexing.datastore import Datastore
from indexing.tokenizer import Tokenizer

MEGABYTES = amount(48, 1024)
MOST_MEMORY = 600 << 20  # bytes; there is no model in it
LONGEST_WAIT = 2.0  # seconds


class LengthEmbedder:
    """As little work as an embedder can be: two numbers from a text's length."""

    name = fingerprint = "length"
    dim = 2

    def embed(self, texts):
        angles = np.array([len(text) for text in texts], dtype=np.float32)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def write_huge(path: Path) -> None:
    """A text of `MEGABYTES` whose lines are numbered, so that none is like another."""
    rng = random.Random(8)
    lines = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 30))) for _ in range(1000)]
    with open(path, "w", encoding="utf-8") as file:
        number = 0
        while file.tell() < MEGABYTES << 20:
            for line in lines:
                file.write(f"{number} {line}\n")
                number += 1


def build_huge(file: Path, path: Path, stop_after: int | None = None) -> dict:
    """Build a datastore of one file; stop after some events, if told so. What it took."""
    events = build(
        path, read_files([file]), Tokenizer.load(paths.ASSETS / "datastores" / "factbook"), LengthEmbedder()
    )
    longest, count, stages, before = 0.0, 0, {}, time.monotonic()
    for event in events:
        now = time.monotonic()
        if now - before > longest:
            longest, at = now - before, event
        before = now
        count += 1
        stages[event.stage] = count
        if count == stop_after:
            break
    before = time.monotonic()
    events.close()
    return {
        "longest": longest,
        "at": repr(at),
        "count": count,
        "stages": stages,
        "closing": time.monotonic() - before,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


@pytest.mark.reliability
def test_memory_progress_and_stop(tmp_path):
    file, path = tmp_path / "huge.txt", tmp_path / "notes"
    write_huge(file)
    begin = time.monotonic()
    whole = in_a_child(build_huge, file, path, timeout=3600)
    print(f"{MEGABYTES} MB in {time.monotonic() - begin:.0f} s: {whole}")
    assert whole["memory"] <= MOST_MEMORY
    assert whole["longest"] <= LONGEST_WAIT, whole["at"]
    datastore = Datastore.open(path, embedder=LengthEmbedder())
    assert datastore.num_documents == 1
    rows = [0, len(datastore.chunks) // 2, len(datastore.chunks) - 2]
    with open(file, encoding="utf-8") as text:
        for row in rows:
            text.seek(0)
            left = int(datastore.chunks.starts[row])
            while left:
                piece = text.read(min(left, 1 << 20))
                left -= len(piece)
            expected = datastore.text(row)
            assert text.read(len(expected)) == expected != ""
    for share in (0.3, 0.9):
        stopped = in_a_child(
            build_huge, file, tmp_path / "stopped", int(share * whole["count"]), timeout=3600
        )
        assert stopped["closing"] + stopped["longest"] <= LONGEST_WAIT
        assert [each.name for each in tmp_path.iterdir() if "stopped" in each.name and each.is_dir()] == []
