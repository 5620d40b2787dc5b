"""Words shown to people, except those that belong to one control."""

from dataclasses import dataclass

from indexing import paths

TITLE = "RETRO Explorer"
TAGLINE = "Watch a language model look things up while it writes"

PROMPT_HINT = (
    "Begin a text. After every 64 tokens the model looks up similar passages and reads them while it writes "
    "the next 64. Ctrl+Enter runs. The bundled model is tiny: watch how it reads; believe nothing it says."
)

LOADING_MODEL = "Loading {model} (once, about 10 s)…"
LOADING_EMBEDDER = "Loading the embedder (once, about 10 s)…"

READ_AS_TEXT = "{datastore} was made with another tokenizer: {model} reads its text in tokens of its own."

# Why a text ended, besides its length.
ENDED = {
    "end of document": " The model ended the document there.",
    "stop string": " It came to a text to stop at.",
}

FITTING = (
    "A language model that exists already can be RETRO-fitted: a neighbour encoder and chunked "
    "cross-attention are added to it and trained. Without retrieval it stays exactly what it was."
)
NO_BASE_CHOSEN = "Choose a language model: its size and licence are shown before anything is fetched."
NO_FETCHING = (
    "Models are not fetched on this server. Its owner allows it with RETRO_ALLOW_FETCH=1; on your own "
    "computer the page fetches them."
)
NOT_FITTED = (
    "{model} is not RETRO-fitted yet: it writes as it always did, and the neighbours that are looked up "
    "change nothing. More models shows how to fit it."
)
TO_FIT = "Nothing is fitted to it yet. With texts of your own in train.jsonl (docs/retrofit.md says more):"


@dataclass(frozen=True)
class Example:
    """A prompt and the datastore to read from. label: of its chip"""

    label: str
    prompt: str
    datastore: str


# In the manner of the texts that the bundled model was trained on, but about countries it was not trained on:
# what it gets right it has read. So the first two say what their datastore says. The last is about nothing in
# any of them.
_SWAPPED = "Ghana — People and Society\nPopulation:"
EXAMPLES = [
    Example("Ghana's population: 2025", _SWAPPED, "factbook-2025"),
    Example("… and 2015", _SWAPPED, "factbook-2015"),
    Example(
        "Thailand: geography",
        "Thailand — Geography\nLocation: Southeastern Asia, bordering the Andaman Sea and the Gulf of "
        "Thailand, southeast of Burma\nGeographic coordinates: 15 00 N, 100 00 E\nMap references:",
        paths.DEMO_DATASTORE,
    ),
    Example(
        "Uruguay: economy",
        "Uruguay — Economy\nEconomic overview: high-income, export-oriented South American economy;",
        paths.DEMO_DATASTORE,
    ),
    Example(
        "Mexico: history",
        "Mexico — Introduction\nBackground: Mexico was the site of several advanced civilizations,",
        paths.DEMO_DATASTORE,
    ),
    Example(
        "Off-topic",
        "The old clockmaker closed the shutters, lit the lamp and laid the broken watch on the table. "
        "“It has not run since the night of the storm,” the girl said,",
        paths.DEMO_DATASTORE,
    ),
]
