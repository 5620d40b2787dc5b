"""An embedder computes what its model says, and is told from others by all that its vectors depend on."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import HashingEmbedder

from indexing import embedder as embedders
from indexing import static
from indexing.bert import BertEmbedder, Encoder, in_whole_numbers
from indexing.datastore import check_same
from indexing.embedder import (
    DEFAULT_EMBEDDER,
    EMBEDDERS,
    INT8_EMBEDDER,
    PROBES,
    STATIC_EMBEDDER,
    check_probes,
    describe,
    is_same,
    open_embedder,
    prepare_embedder,
    probe_vectors,
)
from indexing.errors import MismatchError
from indexing.manifest import read_manifest
from indexing.paths import ASSETS, embedders_dir

WIDTH, HEADS, LAYERS, INNER, LONGEST, EPSILON = 33, 3, 2, 53, 29, 1e-7
PIECES = "the danube flows to black sea honey bees comb treaty was signed un ##sign ##ed ##s a , . ! 7"
WORDS = PIECES.split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
TEXTS = [
    "The Danube flows to the Black Sea.",
    "",
    "bees",
    "honey " * 40,  # longer than is read
    "unsigned, unsigned treaty!",
    "nothing known here",
    "7 bees signed a treaty .",
]


def write_model(folder: Path, pooling="mean", **changes) -> Path:
    """A random BERT with its tokenizer, as sentence-transformers lays it out."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    chance = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=chance) * 0.3

    sizes = {
        "attention.self.query": (WIDTH, WIDTH), "attention.self.key": (WIDTH, WIDTH),
        "attention.self.value": (WIDTH, WIDTH), "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (INNER, WIDTH), "output.dense": (WIDTH, INNER),
    }  # fmt: skip
    weights = {f"embeddings.{name}_embeddings.weight": draw(rows, WIDTH) for name, rows in (
        ("word", len(VOCABULARY)), ("position", 31), ("token_type", 2))}  # fmt: skip
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        for name, shape in sizes.items():
            weights[f"encoder.layer.{layer}.{name}.weight"] = draw(*shape)
            weights[f"encoder.layer.{layer}.{name}.bias"] = draw(shape[0])
        norms += [f"encoder.layer.{layer}.{name}.LayerNorm" for name in ("attention.output", "output")]
    for name in norms:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = 1 + draw(WIDTH), draw(WIDTH)
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(VOCABULARY)}, unk_token="[UNK]")
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    contents = {
        "modules.json": [{"type": f"some.models.{name}"} for name in ("Transformer", "Pooling")],
        "config.json": {
            "model_type": "bert", "hidden_act": "gelu", "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "layer_norm_eps": EPSILON, "max_position_embeddings": 31,
        },
        "sentence_bert_config.json": {"max_seq_length": LONGEST, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": ""}},
        "1_Pooling/config.json": {"pooling_mode": pooling},
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = content | changes.get(name, {}) if isinstance(content, dict) else changes.get(name, content)
        (folder / name).write_text(json.dumps(content))
    save_file(weights, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def opened(folder: Path, precision="exact") -> BertEmbedder:
    return BertEmbedder(str(folder), folder, Encoder.read(folder), precision)


def by_hand(folder: Path, text: str, pooling: str) -> np.ndarray:
    """One text, one head and one position at a time, in float64."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    w = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    ids = ids if len(ids) <= LONGEST else [*ids[: LONGEST - 1], ids[-1]]

    def norm(row, name):
        row = (row - row.mean()) / math.sqrt(row.var() + EPSILON)
        return row * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(row, name):
        return w[f"{name}.weight"] @ row + w[f"{name}.bias"]

    words, places = w["embeddings.word_embeddings.weight"], w["embeddings.position_embeddings.weight"]
    kind = w["embeddings.token_type_embeddings.weight"][0]
    rows = [norm(words[t] + places[i] + kind, "embeddings.LayerNorm") for i, t in enumerate(ids)]
    for layer in range(LAYERS):
        at, size = f"encoder.layer.{layer}", WIDTH // HEADS
        parts = ("query", "key", "value")
        q, k, v = ([dense(row, f"{at}.attention.self.{part}") for row in rows] for part in parts)
        for i, row in enumerate(list(rows)):
            read = []
            for head in range(HEADS):
                of = slice(head * size, (head + 1) * size)
                weights = np.exp([q[i][of] @ key[of] / math.sqrt(size) for key in k])
                weights /= weights.sum()
                read.append(sum(weight * value[of] for weight, value in zip(weights, v, strict=True)))
            x = norm(row + dense(np.concatenate(read), f"{at}.attention.output.dense"),
                     f"{at}.attention.output.LayerNorm")  # fmt: skip
            wide = [0.5 * z * (1 + math.erf(z / math.sqrt(2))) for z in dense(x, f"{at}.intermediate.dense")]
            rows[i] = norm(x + dense(np.array(wide), f"{at}.output.dense"), f"{at}.output.LayerNorm")
    vector = rows[0] if pooling == "cls" else np.mean(rows, axis=0)
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_the_models(tmp_path, pooling):
    folder = write_model(tmp_path / "m", pooling)
    vectors = opened(folder).embed(TEXTS)
    assert vectors.shape == (len(TEXTS), WIDTH) and vectors.dtype == np.float32
    for vector, text in zip(vectors, TEXTS, strict=True):
        np.testing.assert_allclose(vector, by_hand(folder, text, pooling), atol=2e-6, err_msg=text)


def test_a_vector_does_not_depend_on_its_company(model, monkeypatch):
    embedder = opened(model)
    texts = [" ".join(WORDS[i % 7 : i % 7 + i % 11]) for i in range(61)]
    monkeypatch.setattr("indexing.bert._TOKENS_PER_THREAD", 37)
    monkeypatch.setattr("indexing.bert._TEXTS_AT_ONCE", 23)
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert embedder.embed([]).shape == (0, WIDTH)


def test_whole_numbers_stay_near_and_cannot_overflow(model):
    """Processors without VNNI add two products of an unsigned 8-bit number and a weight in 16 bits."""
    import torch

    exact, whole = opened(model).embed(TEXTS), opened(model, "int8").embed(TEXTS)
    cosines = (exact * whole).sum(axis=1)
    assert cosines.min() > 0.99 and cosines.max() < 0.999999
    weight = torch.randn(41, 59, generator=torch.Generator().manual_seed(1))
    weight[7] = 0
    numbers, scale = in_whole_numbers(weight)
    assert numbers.abs().max() == 63 and 2 * 255 * 63 < 2**15 <= 2 * 255 * 127
    assert ((numbers * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()


@pytest.mark.parametrize("pays", [True, False])
def test_bfloat16_is_used_where_it_pays_only(model, monkeypatch, pays):
    monkeypatch.setattr("indexing.bert._bf16_pays", lambda: pays)
    exact, half = opened(model), opened(model, "bf16")
    cosines = (exact.embed(TEXTS) * half.embed(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.999 and (cosines.min() < 0.999999) == pays
    assert exact.fingerprint != half.fingerprint and half.old_fingerprint is None


@pytest.mark.parametrize(
    "file, change",
    [
        ("config.json", {"model_type": "roberta"}),
        ("config.json", {"hidden_act": "gelu_new"}),
        ("config.json", {"position_embedding_type": "relative_key"}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("config_sentence_transformers.json", {"prompts": {"query": "Find: "}}),
        ("1_Pooling/config.json", {"pooling_mode": "max"}),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}),
        ("modules.json", [{"type": f"x.{name}"} for name in ("Transformer", "Pooling", "Dense")]),
    ],
)
def test_what_it_does_not_know_is_left_to_sentence_transformers(tmp_path, file, change, monkeypatch):
    folder = write_model(tmp_path / "m", **{file: change})
    monkeypatch.setattr(embedders, "SentenceTransformerEmbedder", lambda name: f"the library's {name}")
    assert Encoder.read(folder) is None and open_embedder(str(folder)) == f"the library's {folder}"
    assert isinstance(open_embedder(str(write_model(tmp_path / "plain"))), BertEmbedder)


def test_both_ways_to_write_the_settings_are_read(tmp_path, model):
    old = write_model(tmp_path / "m")
    (old / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": False,
                    "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False})
    )  # fmt: skip
    (old / "sentence_bert_config.json").write_text("{}")
    assert Encoder.read(old) is None  # nobody says how long a text may be
    (old / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LONGEST}))
    assert Encoder.read(old) == Encoder.read(model)
    assert opened(old).fingerprint == opened(model).fingerprint


def test_a_fingerprint_knows_all_that_vectors_depend_on(tmp_path, model):
    same = shutil.copytree(model, tmp_path / "same")
    found = {opened(model).fingerprint, opened(same).fingerprint}
    assert len(found) == 1
    found |= {opened(model, "int8").fingerprint, static._fingerprint(model)}
    found.add(opened(write_model(tmp_path / "a", "cls")).fingerprint)
    changes = {"sentence_bert_config.json": {"max_seq_length": 28}}
    found.add(opened(write_model(tmp_path / "b", **changes)).fingerprint)
    found.add(opened(write_model(tmp_path / "c", **{"config.json": {"layer_norm_eps": 1e-5}})).fingerprint)
    for name in ("model.safetensors", "tokenizer.json"):
        other = shutil.copytree(model, tmp_path / name)
        content = (other / name).read_bytes()
        changed = content.replace(b'"treaty"', b'"treat"') if "json" in name else content[:-1] + b"\x01"
        assert changed != content
        (other / name).write_bytes(changed)
        found.add(opened(other).fingerprint)
    assert len(found) == 8


def test_the_bundled_datastore_is_of_the_default(monkeypatch):
    """It was built when a fingerprint was that of the weights alone, and is opened without complaint."""
    built_with = read_manifest(ASSETS / "datastores" / "factbook")["embedder"]
    default, whole = open_embedder(), open_embedder(INT8_EMBEDDER)
    assert built_with["fingerprint"] != default.fingerprint and is_same(default, built_with["fingerprint"])
    check_same("embedder", Path("factbook"), built_with, default)
    assert not is_same(whole, built_with["fingerprint"]) and is_same(whole, whole.fingerprint)
    with pytest.raises(MismatchError, match="was built with the embedder 'all-MiniLM-L6-v2' .*int8"):
        check_same("embedder", Path("factbook"), built_with, whole)


def test_probes_tell_an_embedder_of_the_same_name(model):
    embedder = opened(model)
    stored = probe_vectors(embedder)
    with pytest.raises(MismatchError, match="expected 0.99 or more"):
        check_probes(opened(model, "int8"), probe_vectors(HashingEmbedder("x", WIDTH)))
    assert stored.shape == (len(PROBES), WIDTH) == (8, WIDTH) and stored.dtype == np.float16
    check_probes(embedder, stored)
    embedder._layers[1] = embedder._layers[0]  # as if its weights had been replaced
    with pytest.raises(MismatchError) as caught:
        check_probes(embedder, stored, "notes")
    sentence = str(caught.value)
    assert sentence.startswith(
        f"Datastore 'notes' was built with the embedder {str(model)!r}, but the one of"
    )
    assert "other vectors for the same sentences (cosine " in sentence and "expected 0.999" in sentence
    assert sentence.endswith("or build the datastore again with this embedder.")
    with pytest.raises(MismatchError, match="vectors of 48 numbers instead of 33"):
        check_probes(HashingEmbedder(), stored)
    with pytest.raises(MismatchError, match="cosine"):
        check_probes(HashingEmbedder(), np.full((8, 48), np.nan, dtype=np.float16))


@pytest.fixture
def packaged(model, monkeypatch) -> Path:
    monkeypatch.setattr(embedders, "_packaged_minilm", lambda: model)
    return model


def test_a_static_embedder_is_distilled_once(packaged, monkeypatch):
    monkeypatch.setattr(static, "_PIECES_AT_ONCE", 10)
    events = list(prepare_embedder(STATIC_EMBEDDER))
    assert [(event.done, event.total) for event in events] == [(0, 25), (10, 25), (20, 25), (25, 25)]
    assert list(prepare_embedder(STATIC_EMBEDDER)) == list(prepare_embedder(DEFAULT_EMBEDDER)) == []
    embedder = open_embedder(STATIC_EMBEDDER)
    assert embedder.name == STATIC_EMBEDDER and embedder.fingerprint == static._fingerprint(packaged)

    alone = opened(packaged).embed_pieces(range(len(VOCABULARY)))
    np.testing.assert_allclose(alone[7], opened(packaged).embed(["to"])[0], atol=1e-6)
    table = static.weighted(alone)
    expected = (
        table[VOCABULARY.index("un")] + table[VOCABULARY.index("##sign")] + table[VOCABULARY.index("##ed")]
    )
    expected += table[VOCABULARY.index(",")] + table[VOCABULARY.index("honey")]
    vector = embedder.embed([" Unsigned,\n honey"])[0]
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-3)
    vectors = embedder.embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    long = embedder.embed(["honey " * 99 + "bees " * 99])[0]  # is read to its end
    assert long @ vectors[2] > 0.3 + vectors[2] @ vectors[3]


def test_static_tokens_are_the_tokenizers(packaged, monkeypatch):
    embedder = open_embedder(STATIC_EMBEDDER)
    monkeypatch.setattr(static, "_WORDS_REMEMBERED", 5)
    for text in [*TEXTS, "a\tb\r\n\u3000treaty\u2028signed", "Honey-bees,signed;a  TREATY"]:
        assert embedder._tokenize(text) == embedder._tokenizer.encode(text, add_special_tokens=False).ids
        assert len(embedder._pieces) <= 5


@pytest.mark.parametrize("damage", ["flipped", "gone", "of another model"])
def test_a_damaged_table_is_distilled_anew(packaged, damage, tmp_path, monkeypatch):
    before = open_embedder(STATIC_EMBEDDER).embed(TEXTS)
    (folder,) = embedders_dir().iterdir()
    if damage == "flipped":
        content = bytearray((folder / "table.npy").read_bytes())
        content[-300] ^= 4
        (folder / "table.npy").write_bytes(content)
    elif damage == "gone":
        (folder / "static.json").unlink()
    else:
        monkeypatch.setattr(embedders, "_packaged_minilm", lambda: write_model(tmp_path / "m", "cls"))
    assert list(prepare_embedder(STATIC_EMBEDDER))
    same = np.allclose(open_embedder(STATIC_EMBEDDER).embed(TEXTS), before)
    assert same == (damage != "of another model")


def test_a_choice_is_described():
    described = [describe(name) for name in (*EMBEDDERS, "some/model")]
    assert len(set(described)) == 5 and "another retriever" in describe(STATIC_EMBEDDER)


@pytest.mark.slow
def test_an_unknown_name_is_an_error_of_one_sentence_pair(monkeypatch):
    from indexing.errors import DatastoreError

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        DatastoreError, match="Cannot load the embedder 'no-such/model'.*Expected one of all-Mini"
    ):
        open_embedder("no-such/model")


@pytest.mark.slow
def test_the_packaged_model_embeds_as_sentence_transformers_does(tmp_path):
    """The default agrees with the library; what it saves again is read the same; whole numbers are near."""
    from sentence_transformers import SentenceTransformer

    from indexing.embedder import SentenceTransformerEmbedder, _packaged_minilm

    library = SentenceTransformer(str(_packaged_minilm()))
    texts = [*PROBES, "", "é" * 700, "naïve\u200bcafé 東京タワー", "a\x00b \ufffd", "x" * 5000]
    expected = library.encode(texts)
    np.testing.assert_allclose(open_embedder().embed(texts), expected, atol=1e-5)
    assert (open_embedder(INT8_EMBEDDER).embed(texts) * expected).sum(axis=1).min() > 0.97
    library.save(str(tmp_path / "saved"))
    again = open_embedder(str(tmp_path / "saved"))
    assert isinstance(again, BertEmbedder)
    np.testing.assert_allclose(again.embed(texts), expected, atol=1e-5)

    theirs = SentenceTransformerEmbedder(str(tmp_path / "saved"))
    np.testing.assert_allclose(theirs.embed(texts), expected, atol=1e-5)
    check_probes(theirs, probe_vectors(again))
    longer = SentenceTransformerEmbedder(str(tmp_path / "saved"))
    longer._model.max_seq_length = 64
    assert longer.fingerprint != theirs.fingerprint
    with pytest.raises(MismatchError):
        check_probes(longer, probe_vectors(theirs))
