"""Words shown to people, except those that belong to one control."""

TITLE = "RETRO Explorer"
TAGLINE = "Watch a language model look things up while it writes"

PROMPT_HINT = (
    "Begin a text. After every 64 tokens the model looks up similar passages and reads them while it writes "
    "the next 64. Ctrl+Enter runs."
)

LOADING_MODEL = "Loading the model (once, about 10 s)…"
LOADING_EMBEDDER = "Loading the embedder (once, about 10 s)…"

# (label of the chip, prompt)
EXAMPLES = [
    (
        "Landlocked country",
        "Geography of Rwanda. The country is landlocked, in Central Africa, east of the Democratic Republic "
        "of the Congo. Its terrain is mostly grassy uplands and hills; the relief is mountainous with "
        "altitude declining from west to east. Natural resources:",
    ),
    (
        "Island economy",
        "Economy of Iceland. The economy combines a capitalist structure and free-market principles with an "
        "extensive welfare system. It depends heavily on the fishing industry, which provides a large share "
        "of export earnings. The main industries are",
    ),
    (
        "Government",
        "Government type of Norway: constitutional monarchy. Capital: Oslo. Administrative divisions: "
        "counties. Legal system: mixed legal system of civil, common, and customary law. The chief of state "
        "is",
    ),
    (
        "Off-topic",
        "The old clockmaker closed the shutters, lit the lamp and laid the broken watch on the table. "
        "“It has not run since the night of the storm,” the girl said,",
    ),
]
