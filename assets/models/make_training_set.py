"""Make the training set and the held-out probes of the bundled model.

    python -m assets.models.make_training_set CORPORA OUT

CORPORA holds JSON-lines files (optionally .zst) with `id`, `title`, `text` and, where some documents are held
out, `split` ("train" or "test"); models/demo/README.md tells where they come from:

    factbook-2025 factbook-2015 kjv asv web techdocs wiki wiki-valid

OUT gets shards/NAME (each a datastore folder) and one folder for each data spec: train, to which fact cards
(`fact_cards.py`) are added, and the probes factbook, bible, techdocs, wiki. Finished shards are kept, so that
the command can be repeated. About 130,000 chunks are embedded: half an hour on two cores. `--tokenizer`
learns the tokenizer first, from the same files.
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from assets.datastores.make_editions import EDITIONS
from assets.evaluation.make_fact_swap import HELD_OUT
from assets.models.fact_cards import Card, cut_cards, passage_cards, write_cards
from indexing import paths
from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.embedder import Embedder, open_embedder
from indexing.files import write_json
from indexing.manifest import SEGMENTS_FOLDER
from indexing.precompute import DATA_SPEC, INDEX_SPEC, precompute_neighbours
from indexing.tokenizer import Tokenizer, train_byte_level_bpe

Row = dict[str, Any]
CORPORA = ["factbook-2025", "factbook-2015", "kjv", "asv", "web", "techdocs", "wiki", "wiki-valid"]
TRAINING = [
    "factbook-2025-train",
    "factbook-2015-train",
    "bible-kjv",
    "bible-asv",
    "techdocs-train",
    "wiki-train",
]
CARDS = {"factbook-2025-train": 6000, "factbook-2015-train": 6000}  # tried; about two thirds are kept
# probe: (held-out shards, shards they are answered from)
PROBES = {
    "factbook": (
        ["factbook-2025-test"],
        ["factbook-2025-train", "factbook-2015-train", "factbook-2015-test"],
    ),
    "bible": (["bible-web-test"], ["bible-kjv", "bible-asv"]),
    "techdocs": (["techdocs-test"], ["techdocs-train"]),
    "wiki": (["wiki-valid"], ["wiki-train"]),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FOLDER", help="learn the tokenizer first, into FOLDER"
    )
    arguments = parser.parse_args(argv)
    corpora = {name: read(arguments.corpora, name) for name in CORPORA}
    if arguments.tokenizer:
        arguments.tokenizer.mkdir(parents=True, exist_ok=True)
        train_byte_level_bpe(tokenizer_texts(corpora), 8192, "demo").save(arguments.tokenizer)
    tokenizer = Tokenizer.load(arguments.tokenizer or paths.model_dir(paths.DEMO_MODEL))
    embedder = open_embedder()
    shards = arguments.out / "shards"
    for name, rows in documents(corpora).items():
        if (shards / name).exists():
            continue
        found = (Document(row["id"], row["title"], with_title(row), name) for row in rows)
        for event in build(shards / name, found, tokenizer, embedder):
            print(f"{name}: {event.stage} {event.done:,} of {event.total:,}", end="\r", file=sys.stderr)
        print(file=sys.stderr)
    everything = [*TRAINING, "factbook-2015-test"]
    # The current Factbook twice in an epoch: it is what the demo is about.
    specs = {"train": ([TRAINING[0], *TRAINING], everything), **PROBES}
    for name, (asking, answering) in specs.items():
        for event in precompute_neighbours(
            [shards / s for s in asking], [shards / s for s in answering], 4, arguments.out / name
        ):
            print(f"{name}: {event}", end="\r", file=sys.stderr)
        print(file=sys.stderr)
    add_cards(shards, everything, arguments.out / "train" / DATA_SPEC, tokenizer, embedder)
    return 0


def add_cards(
    shards: Path, everything: list[str], spec: Path, tokenizer: Tokenizer, embedder: Embedder
) -> None:
    """Add shards of fact cards to the training set: cut from the training countries of both editions, and
    from the passages about them in the two small datastores, which join the index for that."""
    described = json.loads(spec.read_text(encoding="utf-8"))
    index = spec.parent / INDEX_SPEC
    indexed = json.loads(index.read_text(encoding="utf-8"))
    first = 0
    for folder in [
        *(shards / name for name in everything),
        *(paths.datastore_dir(name) for name in EDITIONS),
    ]:
        edition = Datastore.open(folder, tokenizer=tokenizer, embedder=embedder)
        cards: list[Card] = []
        if folder.name in EDITIONS:
            cards = passage_cards(edition, is_held_out)
            (segment,) = (folder / SEGMENTS_FOLDER).iterdir()
            kinds = ("chunks", "seq2chunk", "chunk2seq", "embeddings")
            indexed.append({kind: os.path.relpath(segment / f"{kind}.npy", index.parent) for kind in kinds})
        elif folder.name in CARDS:
            cards = cut_cards(edition, CARDS[folder.name])
        if cards:
            print(f"{folder.name}: {len(cards):,} fact cards", file=sys.stderr)
            target = shards / f"{folder.name}-cards"
            write_cards(target, cards, edition, first)
            kinds = ("chunks", "seq2chunk", "chunk2seq", "neighbours")
            files = {kind: os.path.relpath(target / f"{kind}.npy", spec.parent) for kind in kinds}
            described["shards"].append(files)
        first += len(edition.chunks)
    write_json(index, indexed)
    write_json(spec, described)


def is_held_out(passage: Document) -> bool:
    """Whether a document of EDITIONS, "factbook-2015:africa/gh/Economy/Exports", is about such a country."""
    region, country, *_ = passage.id.partition(":")[2].split("/")
    return country in HELD_OUT.get(region, "").split()


def documents(corpora: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """shard -> documents. Long pages and articles are cut, so that no source drowns the others."""
    dice = random.Random(1)
    tech, tech_test = split(corpora["techdocs"], "train"), split(corpora["techdocs"], "test")
    web, wiki, wiki_valid = list(corpora["web"]), list(corpora["wiki"]), list(corpora["wiki-valid"])
    for rows in (tech, web, wiki, wiki_valid):
        dice.shuffle(rows)
    return {
        "factbook-2025-train": split(corpora["factbook-2025"], "train"),
        "factbook-2015-train": split(corpora["factbook-2015"], "train"),
        "factbook-2025-test": split(corpora["factbook-2025"], "test"),
        "factbook-2015-test": split(corpora["factbook-2015"], "test"),
        "bible-kjv": corpora["kjv"],
        "bible-asv": corpora["asv"],
        "bible-web-test": web[:60],
        "techdocs-train": up_to(cut(tech, 30_000), 6_000_000),
        "techdocs-test": cut(tech_test[:40], 12_000),
        "wiki-train": cut(wiki[:500], 3_500),
        "wiki-valid": cut(wiki_valid[:60], 3_500),
    }


def tokenizer_texts(corpora: dict[str, list[Row]]) -> list[str]:
    """No held-out country of the current Factbook among them."""
    rows = split(corpora["factbook-2025"], "train") + corpora["factbook-2015"][::2]
    rows += corpora["techdocs"][::4] + corpora["web"][::2] + cut(corpora["wiki"], 3_000)
    return [with_title(row) for row in rows]


def with_title(row: Row) -> str:
    return row["title"] + "\n" + row["text"]


def split(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if (row.get("split") == "test") == (name == "test")]


def cut(rows: list[Row], characters: int) -> list[Row]:
    return [{**row, "text": row["text"][:characters]} for row in rows]


def up_to(rows: list[Row], characters: int) -> list[Row]:
    """The first rows that hold this many characters."""
    total, found = 0, []
    for row in rows:
        if total > characters:
            break
        found.append(row)
        total += len(row["text"])
    return found


def read(folder: Path, name: str) -> list[Row]:
    path = folder / f"{name}.jsonl"
    if path.is_file():
        data = path.read_bytes()
    else:
        import zstandard  # only for packed corpora; not needed by the product

        data = zstandard.ZstdDecompressor().stream_reader((folder / f"{name}.jsonl.zst").read_bytes()).read()
    return [json.loads(line) for line in data.split(b"\n") if line]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
