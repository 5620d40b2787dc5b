"""Words shown to people, except those that belong to one control."""

TITLE = "RETRO Explorer"
TAGLINE = "Watch a language model look things up while it writes"

PROMPT_HINT = (
    "Begin a text. After every 64 tokens the model looks up similar passages and reads them while it writes "
    "the next 64. Ctrl+Enter runs. The bundled model is tiny: watch how it reads; believe nothing it says."
)

LOADING_MODEL = "Loading the model (once, about 10 s)…"
LOADING_EMBEDDER = "Loading the embedder (once, about 10 s)…"

# (label of the chip, prompt). In the manner of the texts that the bundled model was trained on, but about
# countries it was not trained on: what it gets right it has read. The last is about nothing in the datastore.
EXAMPLES = [
    (
        "Thailand: geography",
        "Thailand — Geography\nLocation: Southeastern Asia, bordering the Andaman Sea and the Gulf of "
        "Thailand, southeast of Burma\nGeographic coordinates: 15 00 N, 100 00 E\nMap references:",
    ),
    (
        "Uruguay: economy",
        "Uruguay — Economy\nEconomic overview: high-income, export-oriented South American economy;",
    ),
    (
        "Mexico: history",
        "Mexico — Introduction\nBackground: Mexico was the site of several advanced civilizations,",
    ),
    (
        "Off-topic",
        "The old clockmaker closed the shutters, lit the lamp and laid the broken watch on the table. "
        "“It has not run since the night of the storm,” the girl said,",
    ),
]
