"""Make assets/training-sets/two-editions, on which the page's toy run trains: texts about countries as of
2025, which read what was said of them in 2015.

    python -m assets.models.make_toy_set WORK

A document is all that datastores/factbook-2025 (or -2015) holds of one country. Neighbours are chunks of
2015, and of the 2025 documents of the countries that are trained on: so a model that looks things up knows
how a page goes on, and about what its figures are, and one that does not has to guess. Held out are the
countries that the bundled model was not trained on either.

WORK gets the shards with their embeddings, which take some minutes; it may be given again. What ships has no
embeddings, as training needs none.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from assets.datastores.make_editions import EDITIONS
from assets.models.make_training_set import is_held_out
from indexing import files, paths
from indexing.build import build
from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.embedder import open_embedder
from indexing.manifest import SEGMENTS_FOLDER
from indexing.precompute import precompute_neighbours
from indexing.tokenizer import Tokenizer
from indexing.training_sets import FACTS_FILE, HELD_OUT, NEIGHBOURS, TRAIN

NAME = "two-editions"
_OLD, _NEW = EDITIONS
_KEPT = (CHUNKS_FILE, CHUNK2SEQ_FILE, SEQ2CHUNK_FILE)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work.resolve()
    tokenizer, embedder = Tokenizer.load(paths.model_dir(paths.DEMO_MODEL)), open_embedder()
    counts = {}
    for edition in EDITIONS:
        for held in (False, True):
            shard = work / f"{edition}-{HELD_OUT if held else TRAIN}"
            documents = list(pages(Datastore.open(paths.ASSETS / "datastores" / edition), held))
            if not shard.exists():
                for event in build(shard, documents, tokenizer, embedder):
                    print(f"{shard.name}: {event.stage} {event.done:,} of {event.total:,}", file=sys.stderr)
            counts[shard.name] = (len(documents), len(Datastore.open(shard).chunks))
    shards = {name: ship(work / name, work / "shipped" / name) for name in counts}
    read = [shards[f"{_OLD}-{TRAIN}"], shards[f"{_OLD}-{HELD_OUT}"], shards[f"{_NEW}-{TRAIN}"]]
    for part in (TRAIN, HELD_OUT):
        asking = shards[f"{_NEW}-{part}"]
        list(precompute_neighbours([asking], read, NEIGHBOURS, work / "shipped" / part))
    for path in (work / "shipped").glob("*/embeddings.npy"):
        path.unlink()
    (documents, chunks), (held_documents, held_chunks) = (counts[f"{_NEW}-{p}"] for p in (TRAIN, HELD_OUT))
    facts = {
        "name": NAME, "source": " + ".join(EDITIONS), "identity": "", "documents": documents,
        "chunks": chunks, "held_out_documents": held_documents, "held_out_chunks": held_chunks,
        "tokenizer": tokenizer.name, "fingerprint": tokenizer.fingerprint,
    }  # fmt: skip
    files.write_json(work / "shipped" / FACTS_FILE, facts)
    target = paths.ASSETS / "training-sets" / NAME
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(work / "shipped", target)
    return 0


def pages(edition: Datastore, held_out: bool) -> Iterator[Document]:
    """One document a country: its passages, one after the other."""
    texts: dict[str, list[Document]] = {}
    for passage in edition.documents:
        if is_held_out(passage) == held_out:
            country = "/".join(passage.id.split("/")[:2])  # factbook-2025:africa/gh
            texts.setdefault(country, []).append(passage)
    for country, found in texts.items():
        yield Document(
            country, found[0].title.split(" — ")[0], "\n".join(p.text for p in found), edition.name
        )


def ship(datastore: Path, folder: Path) -> Path:
    """The arrays of a datastore of one segment."""
    folder.mkdir(parents=True, exist_ok=True)
    (segment,) = (datastore / SEGMENTS_FOLDER).iterdir()
    for name in (*_KEPT, "embeddings.npy"):
        shutil.copyfile(segment / name, folder / name)
    return folder


if __name__ == "__main__":
    sys.exit(main())
