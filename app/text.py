"""Words shown to people, except those that belong to one control."""

from dataclasses import dataclass

from indexing import paths

TITLE = "RETRO Explorer"
TAGLINE = "Watch a language model look things up while it writes"

PRIVACY = (
    "Prompts and texts are worked on by this server alone and sent to nobody else. Results stay in its "
    "memory until newer ones need the room; your browser remembers your prompt and settings. No tracking, no "
    "analytics."
)

PRIVACY_SHARED = (
    " One cookie tells the server what is yours; what you make is yours alone, and removed {kept} after you "
    "last used it."
)

PROMPT_HINT = (
    "Begin a text. After every 64 tokens the model looks up similar passages and reads them while it writes "
    "the next 64. Ctrl+Enter runs. The bundled model is tiny: watch how it reads; believe nothing it says."
)
READING_HINT = (
    "A text of your own, which the model only reads: how much did it expect each word, with what it looked "
    "up and without? Its first 64 tokens only ask; those after them read. Ctrl+Enter runs."
)
TASKS = {"write": "write on", "read": "only read it"}  # what is done with a text
READ_TITLE = "Your text, read as it is"
MODEL_HINT = "What reads and writes. Others are under More models."
RETRIEVER_HINT = "How the datastore is searched. At random is the control: what does it read then?"

SWAP_LEAD = (
    "Same model, same prompt: only the book that it may look things up in differs, and so does the fact that "
    "it writes. Click a side to see how."
)
SWAP_LIVE = "Run both now, side by side"
RESTARTED = (
    "This server restarted, and the result that you looked at is gone. Your prompt and settings are here: "
    "press Run to have it again."
)
RESTARTED_SPACE = (
    "This Space restarted or slept: results and datastores that were made here are gone. Your prompt and "
    "settings are here: press Run to have a result again."
)
FORGOTTEN = (
    "The result that you looked at made room for newer ones. Your prompt and settings are here: press Run to "
    "have it again."
)
INTERRUPTED = (
    "This server restarted while a text was being written, which is cut off. Your prompt and settings are "
    "here: press Run to have it written again."
)
INTERRUPTED_SPACE = (
    "This Space restarted while a text was being written, which is cut off; datastores that were made here "
    "are gone. Your prompt and settings are here: press Run to have it written again."
)
LINKED = "This prompt came with the link: press Run."
LINK_REFUSED = "The link asks for what is not here, left out: {names}."
OWN_TEXT = "Read from a text of your own…"

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


# ---- Corpus

CORPUS = (
    "A **datastore** is what the model looks things up in while it writes: texts, cut into chunks of 64 "
    "tokens, found again by meaning or by words. Make one of your own, or look into one that is here."
)
CORPUS_SHARED = (
    " Yours is yours alone: up to {files} files and {characters:,} characters, {kept} at a time, each "
    "removed {left} after you last used it."
)
FILES = "or choose files: text, web pages, PDF, Word, tables, or a .zip of them"
FILES_OF_STRANGERS = "or choose files: text, web pages, PDF, Word, tables"
IMPORTING = "Or open a datastore that somebody exported"
# Countries of the bundled Factbook that a first datastore can be made of.
SAMPLES = ["Iceland", "Japan", "Kenya", "Peru", "Switzerland", "Vietnam"]
INDEX_CHOICES = (
    "What is proposed suits nearly everybody. Where memory is short, or a particular faiss index is to be "
    "tried, ask for it here; what it would cost is said above."
)
NO_INDEX_YET = "Once there is a text, this says what will search its chunks, how long that takes, and why."
RECALL = (
    "Recall is the share of the truly nearest chunks that a search finds. Whatever the index, the distances "
    "that are shown are exact."
)
NO_DATASTORE = "There is no datastore yet. Make one first: paste a text, and it is there in seconds."
COPY_IT = "Make a copy under “Copy, rename, export”; the copy is yours to change."
BUNDLED = f"It ships with the program and is never changed. To add or delete documents: {COPY_IT}"
PRIVATE = "Yours alone: no other visitor sees it. It is removed {kept} after it was last used."
EVERYBODYS = (
    "Everybody reads it here, and no visitor changes it. Make one of your own under “Make a datastore”."
)
CHECKING = (
    "**Verify** reads every byte and compares it with what was written. **Compact** takes the text of "
    "deleted documents off the disk and joins what was added in parts; nothing is embedded again."
)
MAP_TOO_SMALL = "So few chunks that every one is near every other."


# ---- Learn

LEARN = (
    "## How does a language model look things up while it writes?\nEight short lessons, one thing to move in "
    "each. Nothing here needs the model: all of it was recorded."
)
LEARN_SNIPPETS = (
    "## Do it yourself\nCopy, paste, run: all of this is run by a test as it stands here. Programs and "
    "agents ask this page at six endpoints."
)
ENDPOINTS = "All endpoints and what they take"
LEARN_GLOSSARY = "## Glossary\nOne word for each thing, on this page and in all that is written about it."
LEARN_CREDITS = """## Who thought of it

- RETRO: Borgeaud et al., [Improving language models by retrieving from trillions of tokens](https://arxiv.org/abs/2112.04426)
- The best explanation in pictures: Jay Alammar, [The Illustrated Retrieval Transformer](https://jalammar.github.io/illustrated-retrieval-transformer/)
- Which part of a context caused a statement: [ContextCite](https://arxiv.org/abs/2409.00729)
- Which tokens depend on a context, and on what in it: [PECoRe](https://arxiv.org/abs/2310.01188), and for
  retrieved documents [MIRAGE](https://arxiv.org/abs/2406.13663)
"""


# ---- Compare

COMPARE_WRITING = (
    "The same model writes on from the same prompt, each time with another book to look things up in. What "
    "it writes changes with the book; nothing is trained anew. **Click an example.**"
)
COMPARE_READING = (
    "Nothing is written here: the model reads one given text, with other neighbours each time, and says of "
    "every token how much it expected it. As the text is the same, the numbers can be compared."
)
TEXTS_DIFFER = (
    "Free generation: the texts differ, so their probabilities cannot be compared. “Same text, other "
    "reading” does that."
)
# How a sentence names the bundled datastores that are two states of one book.
EDITIONS = {"factbook-2015": "the 2015 edition", "factbook-2025": "the 2025 edition"}
# What puts a datastore's chunks in order, for a choice; `indexing.retrievers.RETRIEVERS` says it in full.
LOOKED_INTO = {
    "dense": "by meaning (dense)",
    "first-chunk": "by meaning, with the text's beginning",
    "bm25": "by words (BM25)",
    "hybrid-rrf": "by both (hybrid, ranks)",
    "hybrid-rerank": "by both (hybrid, reranked)",
    "random": "at random",
}
# Of assets/evaluation/fact-swap.jsonl, about countries the model was not trained on: (label, prompt).
SWAPS = [
    ("Ghana: population", _SWAPPED),
    ("United Kingdom: head of state", "United Kingdom — Government\nExecutive branch: chief of state:"),
    ("Singapore: head of state", "Singapore — Government\nExecutive branch: chief of state:"),
    ("Thailand: median age", "Thailand — People and Society\nMedian age:"),
    ("Vietnam: population growth", "Vietnam — People and Society\nPopulation growth rate:"),
    ("Uruguay: birth rate", "Uruguay — People and Society\nBirth rate:"),
]


@dataclass(frozen=True)
class SameText:
    """A text to be read in several ways; the first is the recorded one. edit: a neighbour typed by hand"""

    label: str
    beginning: str
    text: str
    datastore: str
    other: str
    edit: str


_GHANA = (
    "Ghana — People and Society\nPopulation: total: 35,336,133 (2025 est.); male: 17,278,776; female: "
    "18,057,357"
)
SAME_TEXTS = [
    SameText(
        "A page about Ghana",
        "",
        f"{_GHANA}\nEthnic groups: Akan 45.7%, Mole-Dagbani 18.5%, Ewe 12.8%, Ga-Dangme 7.1%, Gurma 6.4%, "
        "Guan 3.2%\nReligions: Christian 71.3% (Pentecostal/Charismatic 31.6%, Protestant 17.4%, "
        "Catholic 10%, other 12.3%), Muslim 19.9%, traditionalist 3.2%, other 4.5%\nMedian age: "
        "total: 21.6 years (2025 est.); male: 20.6 years; female: 22.3 years\nPopulation growth "
        "rate: 2.12% (2025 est.)\nBirth rate: 27.09 births/1,000 population (2025 est.)\nDeath "
        "rate: 5.73 deaths/1,000 population (2025 est.)\nNet migration rate: -0.15 "
        "migrant(s)/1,000 population (2025 est.)\nInfant mortality rate: total: 30.5 deaths/1,000 "
        "live births (2025 est.); male: 34.5 deaths/1,000 live births; female: 27.8 deaths/1,000 "
        "live births\nLife expectancy at birth: total population: 70.1 years (2024 est.); male: "
        "68.4 years; female: 71.8 years",
        "factbook-2025",
        "factbook-2015",
        "Ghana — People and Society\nReligions: Christian 71.3% (Pentecostal/Charismatic 31.6%, Protestant "
        "17.4%, Catholic 10%, other 12.3%), Muslim 19.9%, traditionalist 3.2%, other 4.5%",
    ),
    SameText(
        "One fact, two editions",
        _SWAPPED,
        " total: 35,336,133 (2025 est.); male: 17,278,776; female: 18,057,357",
        "factbook-2025",
        "factbook-2015",
        "Ghana — People and Society\nPopulation: total: 12,345,678 (2025 est.)",  # not true: is it believed?
    ),
]


# ---- Train

TRAIN = (
    "Train a small model of your own, and watch it learn to **use** what it looks up: the same held-out "
    "texts are read again and again, with neighbours (**On**) and without (**Off**). As long as the two "
    "curves lie on each other it ignores what it reads; the gap between them is what reading is worth to it."
)


@dataclass(frozen=True)
class Run:
    """A preset of `presets.RUN_PRESETS` in words."""

    label: str
    help: str


RUNS = {
    "toy": Run(
        "Toy · about 2 minutes",
        "**In about two minutes you have seen it all.** A model of 0.7 million parameters "
        "reads what was written of a country in 2015 while it learns to write what is said of it in 2025. "
        "It will write nonsense in the right places: watch the gap, not the words.",
    ),
    "small": Run(
        "Small · some hours",
        "About as large as the bundled model: sentences become sentences. Some hours on a laptop, minutes on "
        "a GPU. Leave it running: it goes on when you close this page, and where it was after a stop.",
    ),
    "further": Run(
        "The bundled model, further",
        "Goes on where the bundled model was left, on texts of your choice: it reads and writes already, and "
        "learns how yours are written. Some minutes on a laptop. A fifth of the steps teach it to pass over "
        "neighbours that have nothing to do with the text.",
    ),
    "fit": Run(
        "RETRO-fit a language model",
        "Takes a language model that can write already, freezes it, and trains only a neighbour encoder and "
        "chunked cross-attention on top. Without neighbours it stays exactly what it was. About half an hour "
        "on a laptop for a first effect; docs/retrofit.md says what to expect.",
    ),
}
TOY_SET = "Two editions of the World Factbook · ready"
TRAIN_ON_OWN_TEXT = "A text of my own…"
ENOUGH_TEXT = (
    "A few pages at least (32 chunks, about 1,500 words); better a book. It becomes a datastore, is cut into "
    "chunks, and one document or part in twenty is held out."
)
WHERE_BASES_ARE = "More of them: Explore → More models."
NO_BASE_HERE = (
    "There is no language model here to fit. Fetch one first: Explore → More models → smollm2-135m (93 MB)."
)
SIZE_HELP = "width and layers; `python -m retro_core presets` tells how many parameters"
NO_COMMAND = "The command comes here once the settings can be used: above is what they lack."
ESTIMATING = "What it takes is being worked out…"
ESTIMATED_LATER = (
    "The texts are cut into the base's own tokens and embedded first, about a minute for each 2,000 chunks. "
    "Time and memory can be told once that is done; the run is refused if memory or disk would not suffice."
)
STARTING_RUN = "Checking that everything fits, and starting…"
RUN_BEGUN = "{name} is being trained. It goes on when you close this page."
RUN_LOST = (
    "The server was started anew while {name} was being prepared, so it was not begun. Press Start again: "
    "what was made so far is used."
)
NO_RUNS = "No runs yet. They are listed here, also after a reload or a restart."
NO_CURVES = "Curves appear with the first measurement."
NO_SAMPLES = "Samples appear with the first evaluation on held-out texts."
TICK_ANOTHER = "Tick another run to draw both."
RECORDED_RUN = "A recorded example: the toy, as it trained here. Your own runs take its place."
WHAT_IT_WRITES = (
    "**What it writes** · the same held-out texts at each evaluation. Move the slider through the training: "
    "words that are new are dotted. Orange: expected more with neighbours; blue: less."
)
SAMPLE_SHOWN = "A held-out text, as the run read it at this step. The tab Train leads back to the others."
LEARNED_TO_READ = (
    "It has learned to use what it reads: held-out texts cost {gain:.2f} nats per token less with neighbours."
)
READING_HURTS = "Reading makes it worse, by {gain:.2f} nats per token: it trusts neighbours that do not help."
LEARNED_NOTHING_YET = (
    "With and without neighbours it does equally well: it has not learned to use them yet, or there is "
    "nothing in them that helps. Train longer, or on texts that are about the same things."
)
TRAIN_FURTHER = (
    "“Use in Explore” makes a model of a checkpoint and takes you there. To train further, start with the "
    "same name and more steps, under Settings."
)
MODELS_ARE_SHARED = (
    "Models are shared by all visitors of this page, so none is added to them. On your own computer the "
    "checkpoint becomes a model of yours."
)
