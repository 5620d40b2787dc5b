"""Record the example traces that the app shows before any model is loaded.

    python -m assets.traces.make_traces

Runs the bundled model on the bundled datastores and writes NAME.retro.json.gz beside this file. Run it again
whenever the model, a datastore or the trace format changes.
"""

import gzip
import json
import sys
from pathlib import Path

from indexing import paths
from indexing.beginnings import FIRST_CHUNK
from indexing.datastore import Datastore
from indexing.files import write_bytes
from indexing.retrievers import DEFAULT_RETRIEVER, open_lookup
from retro_core.checkpoint import load_model
from retro_core.config import GenerationConfig
from retro_core.explain import explain
from retro_core.generation import Prompted, Retrieved, Token, generate

HERE = Path(__file__).resolve().parent

# file name, title, prompt, datastore, retriever, settings that differ from the defaults. The countries were
# held out of training. The first two are one prompt with two datastores: the facts change, the model does
# not. Of a page, the beginning alone says what country it is about.
SWAPPED = "Ghana — People and Society\nPopulation:"
EXAMPLES = [
    (
        "1-population-2025",
        "Ghana's population, from the 2025 edition",
        SWAPPED,
        "factbook-2025",
        DEFAULT_RETRIEVER,
        {"max_new_tokens": 64, "temperature": 0.0},
    ),
    (
        "2-population-2015",
        "the same prompt, from the 2015 edition",
        SWAPPED,
        "factbook-2015",
        DEFAULT_RETRIEVER,
        {"max_new_tokens": 64, "temperature": 0.0},
    ),
    (
        "3-ghana",
        "Ghana, a country the model was not trained on",
        "Ghana — Geography\nLocation: Western Africa, bordering the Gulf of Guinea, between Cote d'Ivoire "
        "and Togo\nGeographic coordinates: 8 00 N, 2 00 W\nMap references: Africa\nArea: total :",
        paths.DEMO_DATASTORE,
        FIRST_CHUNK,
        {"max_new_tokens": 190, "temperature": 0.5},
    ),
    (
        "4-ireland",
        "Ireland's economy",
        "Ireland — Economy\nEconomic overview: high-income, export-oriented EU economy;",
        paths.DEMO_DATASTORE,
        FIRST_CHUNK,
        {"max_new_tokens": 190, "temperature": 0.5},
    ),
    (
        "5-off-topic",
        "A story the datastore knows nothing about",
        "The old clockmaker closed the shutters, lit the lamp and laid the broken watch on the table. “It "
        "has not run since the night of the storm,” the girl said,",
        paths.DEMO_DATASTORE,
        DEFAULT_RETRIEVER,
        {"max_new_tokens": 128, "ignore_end": True},
    ),
]


def main() -> int:
    loaded = load_model(paths.DEMO_MODEL)
    for name, title, prompt, source, form, settings in EXAMPLES:
        config = GenerationConfig(**settings)
        datastore = Datastore.open(source, tokenizer=loaded.tokenizer)
        ids: list[int] = []
        neighbours = []
        prompted = 0
        for event in generate(loaded.model, loaded.tokenizer, prompt, open_lookup(form, datastore), config):
            match event:
                case Prompted():
                    ids, prompted = list(event.tokens), len(event.tokens)
                case Retrieved():
                    neighbours.append(event.neighbours)
                case Token():
                    ids.append(event.id)
        trace = explain(loaded, ids, neighbours, datastore, config, prompt_tokens=prompted, title=title)
        text = json.dumps(trace.to_json(), ensure_ascii=False, separators=(",", ":"))
        # No time stamp in the archive: the same trace gives the same file.
        write_bytes(HERE / f"{name}.retro.json.gz", gzip.compress(text.encode(), mtime=0))
        print(f"{name}: {loaded.tokenizer.decode(ids)}\n", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
