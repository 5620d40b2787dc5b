"""What the Measure tab says to people: what each number means, in one plain sentence."""

INTRO = (
    "**Does retrieval help, by how much, and why?** The same model reads the same text twice, once with what "
    "it looks up and once without, and we count how well it expected every word. What you see first was "
    "recorded; one click measures anew, with the model, the datastore and the text of your choice."
)
NOTHING_RECORDED = "No recorded measurement ships with this copy. Press Measure to make one."
NOTHING_YET = (
    "The first numbers are drawn here as soon as some pages have been read. The recorded measurement stays "
    "under Show."
)
RECORDED = "Recorded: the bundled model"
RECORDED_ABOUT = (
    "Recorded once for the bundled model, on four held-out texts that its weights have not seen, each with a "
    "datastore that suits it. Measurements of your own are listed under Show."
)

# For one's own computer, where a page measures nothing for strangers.
COMMAND = "python -m retro_core evaluate my-text=my-text.txt --datastore factbook --quick --out my-evaluation"

# What each number means.
MEASURED = {
    "bpb": (
        "Bits the model needs for a byte of the text: the better it expects the text, the fewer. It can be "
        "compared between models of any tokenizer."
    ),
    "perplexity": (
        "Among how many equally likely tokens the model chooses, on average. Fewer is better; not comparable "
        "between tokenizers."
    ),
    "interval": (
        "The thin line is the 95 % interval: what other documents of this kind would have given. All bars "
        "are of the same documents, so trust the ratio beside them, not whether lines overlap."
    ),
    "worse": (
        "Share of the tokens that became less likely by reading: a mean gain can hide that most words lose a "
        "little."
    ),
    "leakage": (
        "How much of the gain is copying? Move the slider to the left: only chunks that share little with "
        "any of their neighbours still count. What remains of the gain there was not copied."
    ),
    "overlap": (
        "Does it help because the words stand in the neighbour? The longest run of shared tokens, as a share "
        "of the chunk, against what reading gained."
    ),
    "distance": (
        "Does it help because the neighbour is close in meaning? Squared distance of the embeddings (0 is "
        "the same text) against what reading gained."
    ),
    "spearman": "Spearman's ρ says how well one order predicts the other: 1 perfectly, 0 not at all.",
    "k": "How many neighbours are worth reading? Above the line, reading them is better than reading none.",
    "size": "What is a larger datastore worth? Parts of it were drawn at random; the band spans the draws.",
    "nprobe": (
        "What does a quicker search cost that misses some neighbours? Beside each point stands its recall."
    ),
    "index": (
        "Recall is the share of the truly nearest chunks that a search finds; time is of one query alone, on "
        "the machine that measured. With few chunks comparing all of them (exact) is as quick as anything."
    ),
    "comparators": "What else could be done with the same datastore, without a model made for reading?",
    "documents": "Single documents, those that gained most first; nats a token, less is better.",
    "swap": (
        "The same prompts, read with the book of 2015 and with that of 2025: does the model write what its "
        "book says? The weights hold neither."
    ),
}

# Readings and comparators, as the axis of a picture names them.
READINGS = {
    "on": "On: its nearest neighbours",
    "off": "Off: no retrieval",
    "random": "random neighbours",
    "shuffled": "neighbours of other chunks",
    "bm25": "BM25's neighbours",
    "n_only": "neighbours, no continuation",
    "f_only": "continuations alone",
    "oracle": "best possible neighbours",
    "in_context": "a neighbour put before the text",
    "knn_lm": "kNN-LM",
    "copying": "Off, and copying words",
}

HOW_MEASURED = (
    "On and Off are one model with the same weights, with its neighbours and without any.",
    "Every token but a document's first is scored once; intervals hold 95 % of 2,000 draws of documents.",
    "“Held out” says that the weights have not seen the text. Whether the datastore holds near-copies of it "
    "is what the α slider and the random control are for.",
)
SAME_TEXT = "Both on the same documents and tokens, so bits per byte can be compared."
OTHER_TEXT = "Not the same text: bits per byte of different texts cannot be compared; On ÷ Off can."

SOURCES = {
    "held-out": "Bundled pages it never saw",
    "mine": "Text of mine",
    "datastore": "Documents of the datastore",
}
SOURCE_TOLD = {
    "held-out": (
        "Pages of the World Factbook about 27 countries that were held out when the bundled model was "
        "trained. A page that is in the datastore too never reads itself, but it may read other pages about "
        "the same country. factbook-2025 holds passages of these very pages: with it, look at what is copied."
    ),
    "mine": (
        "Paste a text or upload files that the model was not trained on. If the datastore holds the same "
        "text under another name, what you measure is copying: the α slider shows it, and the filter under "
        "Settings leaves such neighbours out."
    ),
    "datastore": (
        "Documents of the datastore, each looked up in all the others and never in itself. If the model was "
        "trained on them, both numbers are too good; and where documents repeat each other, the gain is "
        "copying."
    ),
}

# After a measurement: how far to trust it.
SOURCE_NOTES = {
    "held-out": "The bundled model's weights have not seen these pages; another model's may have.",
    "mine": "Whether the model has seen this text, only you can know.",
    "datastore": "If the model was trained on these documents, both numbers are too good.",
}

# Amount -> (words, parts, readings).
AMOUNTS = {
    "quick": (
        "Quick (about a minute)",
        ("readings", "leakage", "relations", "index"),
        ("on", "off", "random"),
    ),
    "thorough": (
        "Thorough (some minutes): more readings, numbers of neighbours, copying",
        ("readings", "leakage", "relations", "index", "k", "nprobe", "copying"),
        ("on", "off", "random", "shuffled", "bm25", "n_only", "f_only"),
    ),
    "everything": (
        "Everything (much longer): sizes of the datastore, other ways to use it",
        (
            "readings", "leakage", "relations", "index", "k", "nprobe", "size", "copying", "in-context",
            "knn-lm",
        ),
        ("on", "off", "random", "shuffled", "bm25", "n_only", "f_only", "oracle"),
    ),
}  # fmt: skip

# A part, while it is being measured.
DOING = {
    "readings": "reading the text with neighbours and without",
    "leakage": "how much is copied",
    "relations": "gain against overlap and distance",
    "k": "numbers of neighbours",
    "size": "parts of the datastore",
    "nprobe": "an index that does not find all",
    "index": "recall and time of indexes",
    "copying": "a comparator: copying words",
    "in-context": "a comparator: a neighbour before the text",
    "knn-lm": "a comparator: kNN-LM",
    "swap": "the fact swap",
}
STATES = {"running": "running", "finished": "finished", "stopped": "stopped", "failed": "failed"}
DELETING = "Delete the measurement “{title}” and all that it made? It cannot be brought back."
