"""A datastore built from text: how much of the time is the encoder's, and what memory it takes at two sizes.

    python -m benchmarks.build [--quick]          (about 5 minutes on 2 cores, 3 GB in a temporary folder)

Time: documents of the bundled Factbook are built into a datastore with the default embedder, from texts to
the committed folder. What the encoder takes is measured around its calls. The embedder is loaded before.

Memory: in a process of its own each, documents of one small chunk are built with an embedder that costs
nothing, 100,000 and a million of them. The peak is of the whole process (VmHWM); the slope is what a further
document adds to it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import opened, table
from benchmarks.memory import peak_memory_gb
from indexing import paths
from indexing.build import build
from indexing.chunking import CHUNK_SIZE
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.embedder import Embedder, open_embedder
from indexing.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
SIZES = (1_000, 100_000, 1_000_000)  # the first tells what the program itself takes
QUICK_SIZES = (100, 300, 900)
SHARE_BAR, SLOPE_BAR = 0.95, 50.0


class Timed:
    """An embedder whose time is taken."""

    def __init__(self, embedder: Embedder):
        self.name, self.dim, self.fingerprint = embedder.name, embedder.dim, embedder.fingerprint
        self._embedder, self.seconds = embedder, 0.0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        since = time.perf_counter()
        vectors = self._embedder.embed(texts)
        self.seconds += time.perf_counter() - since
        return vectors


class Trivial:
    """All texts have the same vector, as wide as the default embedder's."""

    name, dim, fingerprint = "trivial", 384, "trivial"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        vectors[:, 0] = 1
        return vectors


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.memory:
        print(json.dumps(memory_of(options.memory, Path(options.folder))))
        return
    machine = opened(options.threads, options.quick)
    folder = Path(tempfile.mkdtemp(prefix="retro-build-", dir=options.folder or None))
    try:
        timed = share_of_encoder(folder / "timed", 3 if options.quick else options.documents)
        sizes = [in_own_process(size, folder) for size in (QUICK_SIZES if options.quick else SIZES)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    few, many = sizes[-2:]
    slope = (many["peak_gb"] - few["peak_gb"]) * 1e9 / (many["documents"] - few["documents"])
    share = timed["encoder_share"]
    rows = [
        ["chunks", timed["chunks"]], ["seconds", timed["seconds"]], ["of them in the encoder", share],
        [f"bar {SHARE_BAR}", "met" if share >= SHARE_BAR else "not met"],
    ]  # fmt: skip
    print(table(("build with the default embedder", ""), rows), "\n")
    rows = [[f"{size['documents']:,}", size["peak_gb"], size["seconds"]] for size in sizes]
    print(table(("documents of one chunk", "peak GB", "s"), rows))
    print(f"{slope:.1f} bytes a document: {'within' if slope <= SLOPE_BAR else 'above'} {SLOPE_BAR:.0f}\n")
    memory = {"sizes": sizes, "bytes_per_document": slope}
    print(json.dumps({"benchmark": "build", "machine": machine, "time": timed, "memory": memory}))


def share_of_encoder(target: Path, documents: int) -> dict[str, Any]:
    source = Datastore.open(paths.ASSETS / "datastores" / paths.DEMO_DATASTORE)
    read = [source.documents[i] for i in range(0, source.num_documents, source.num_documents // documents)]
    embedder = Timed(open_embedder())
    embedder.embed(["What is embedded first is slower."])
    embedder.seconds = 0.0
    since = time.perf_counter()
    for event in build(target, read[:documents], source.tokenizer, embedder):
        chunks = event.total
    seconds = time.perf_counter() - since
    return {
        "documents": documents,
        "chunks": chunks,
        "seconds": seconds,
        "encoder_seconds": embedder.seconds,
        "encoder_share": embedder.seconds / seconds,
    }


def in_own_process(size: int, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.build", "--memory", str(size), "--folder", str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_of(size: int, folder: Path) -> dict[str, Any]:
    target = folder / f"memory-{size}"
    tokenizer = Tokenizer.load(paths.model_dir(paths.DEMO_MODEL))
    since = time.perf_counter()
    for event in build(target, small_documents(size), tokenizer, Trivial(), CHUNK_SIZE):
        chunks = event.total
    seconds = time.perf_counter() - since
    shutil.rmtree(target)
    return {"documents": size, "chunks": chunks, "peak_gb": peak_memory_gb(), "seconds": seconds}


def small_documents(count: int) -> Iterator[Document]:
    """Each of one chunk, each with another text."""
    for i in range(count):
        yield Document(
            f"d{i}", f"Note {i}", f"Note {i} says that {i % 97} and {i % 89} are {i % 97 + i % 89}.", ""
        )


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="a few documents: does it run?")
    result.add_argument("--documents", type=int, default=400, help="of the Factbook (default 400)")
    result.add_argument("--folder", default="", help="where there is room (default: the system's)")
    result.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    result.add_argument("--memory", type=int, default=0, help=argparse.SUPPRESS)
    return result


if __name__ == "__main__":
    main()
