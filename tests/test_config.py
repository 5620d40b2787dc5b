"""Settings say what is wrong with them, and a reference config means what it meant there."""

import json

import pytest

from indexing.errors import ConfigError
from retro_core.config import GenerationConfig, RetroConfig, bounds, from_dict

# The reference's RetroConfig, field by field.
REFERENCE_DEFAULTS = {
    "num_embeddings": 28996, "pad_token_idx": 0, "chunk_size": 64, "dropout_p": 0.1,
    "enc_share_decoder_embs": False, "enc_hidden_dim": 768, "enc_num_layers": 2, "enc_ffn_dim": 3072,
    "enc_num_heads": 4, "enc_qkv_dim": 768, "enc_ca_layers": [0, 1], "enc_sa_pos_bias_num_buckets": 256,
    "enc_ca_pos_bias_num_buckets": 192, "dec_hidden_dim": 768, "dec_num_layers": 2, "dec_ffn_dim": 3072,
    "dec_num_heads": 4, "dec_qkv_dim": 768, "dec_cca_layers": [1], "dec_sa_pos_bias_num_buckets": 2048,
    "dec_cca_pos_bias_num_buckets": 192, "is_encoder_decoder": False,
}  # fmt: skip


def test_a_reference_config_is_read_with_the_references_defaults(tmp_path):
    read = RetroConfig.from_json({})
    assert {name: getattr(read, name) for name in REFERENCE_DEFAULTS} == REFERENCE_DEFAULTS
    path = tmp_path / "config.json"
    path.write_text(json.dumps(REFERENCE_DEFAULTS))
    assert RetroConfig.from_json(path) == read
    assert read.mode == "reference" and not read.tie_embeddings


def test_our_own_models_use_the_paper_mode_and_keep_every_setting(tmp_path):
    assert RetroConfig().mode == "paper"
    ours = RetroConfig(chunk_size=5, dec_cca_layers=[0, 1], pos_bias="log-linear", tie_embeddings=True,
                       pos_bias_max_distance=5000)  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(ours.to_dict()))
    assert RetroConfig.from_json(path) == ours


def test_what_hugging_face_adds_is_passed_over_but_only_where_hugging_face_wrote():
    saved = {"transformers_version": "5.23.0", "architectures": ["RetroForCausalLM"], "dtype": "float32"}
    options = {"eos_token_id": 1, "use_cache": False, "id2label": {"0": "a"}}
    assert RetroConfig.from_json({"chunk_size": 5, **saved, **options}).chunk_size == 5
    for slip in ({"eos_token_id": 1}, {**saved, "chunksize": 5}, {**saved, "pad_token_id": 1}):
        with pytest.raises(ConfigError, match="Unknown setting"):
            RetroConfig.from_json(slip)


@pytest.mark.parametrize("wrong, nearest", [
    ("dec_hiden_dim", "dec_hidden_dim"), ("dec_cc_layer", "dec_cca_layers"), ("dropout", "dropout_p"),
    ("vocab", "mode"), ("enc_n_layers", "enc_num_layers"),
])  # fmt: skip
def test_an_unknown_key_names_the_nearest_known_one(wrong, nearest):
    with pytest.raises(ConfigError) as error:
        RetroConfig.from_json({wrong: 1})
    assert repr(wrong) in str(error.value)
    if wrong != "vocab":  # nothing is near
        assert str(error.value).endswith(f"The nearest is {nearest!r}.")


@pytest.mark.parametrize("values, sentence", [
    ({"dec_num_layers": 0}, "dec_num_layers must be from 1 to 512, got 0."),
    ({"chunk_size": 5000}, "chunk_size must be from 1 to 4,096, got 5000."),
    ({"dec_ffn_dim": -1}, "dec_ffn_dim must be from 1 to 1,048,576, got -1."),
    ({"dec_hidden_dim": 10**18}, "dec_hidden_dim must be from 1 to 131,072, got 1000000000000000000."),
    ({"enc_sa_pos_bias_num_buckets": None}, "enc_sa_pos_bias_num_buckets must be a whole number, got None."),
    ({"pad_token_idx": -1}, "pad_token_idx must be at least 0, got -1."),
    ({"dec_cca_layers": [True]}, "dec_cca_layers must be a list of whole numbers, got [True]."),
    ({"enc_ca_layers": {"0": 1}}, "enc_ca_layers must be a list, got {'0': 1}."),
    ({"dropout_p": 1.0}, "dropout_p must be from 0 to 0.99, got 1.0."),
    ({"dropout_p": float("nan")}, "dropout_p must be a number, got nan."),
    ({"enc_num_heads": 2.0}, "enc_num_heads must be a whole number, got 2.0."),
    ({"enc_num_heads": True}, "enc_num_heads must be a whole number, got True."),
    ({"chunk_size": "64"}, "chunk_size must be a whole number, got '64'."),
    ({"enc_share_decoder_embs": 1}, "enc_share_decoder_embs must be true or false, got 1."),
    ({"dec_cca_layers": 1}, "dec_cca_layers must be a list, got 1."),
    ({"dec_cca_layers": ["1"]}, "dec_cca_layers must be a list of whole numbers, got ['1']."),
    ({"dec_cca_layers": [2]}, "dec_cca_layers names layer 2, but layers count from 0 to 1."),
    ({"enc_ca_layers": [-1]}, "enc_ca_layers names layer -1, but layers count from 0 to 1."),
    ({"dec_num_heads": 5}, "dec_qkv_dim must be a multiple of dec_num_heads, got 768 and 5."),
    ({"enc_share_decoder_embs": True, "enc_hidden_dim": 12}, "needs equal widths, got enc_hidden_dim 12 and"),
    ({"num_embeddings": 100, "pad_token_idx": 100}, "pad_token_idx 100 is outside a vocabulary of 100."),
    ({"mode": "papper"}, "mode must be one of paper, reference, got 'papper'."),
    ({"pos_bias": "loglinear"}, "pos_bias must be one of linear, log-linear, got 'loglinear'."),
    ({"pos_bias": "log-linear", "pos_bias_max_distance": 1024},
     "pos_bias_max_distance must be above 1,024, up to which dec_sa_pos_bias_num_buckets has"),
])  # fmt: skip
def test_a_value_that_cannot_be_is_refused_in_a_sentence(values, sentence):
    with pytest.raises(ConfigError) as error:
        RetroConfig.from_json(values)
    assert sentence in str(error.value)


@pytest.mark.parametrize("content, words", [
    ("{", "is not valid JSON"), ("\udcff", "is not valid JSON"),
    ("[1]", "must hold a JSON object, got a list"),
])  # fmt: skip
def test_a_broken_file_is_named(tmp_path, content, words):
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=words) as error:
        RetroConfig.from_json(path)
    assert str(path) in str(error.value)
    with pytest.raises(ConfigError, match="Check the path"):
        RetroConfig.from_json(tmp_path / "missing.json")


def test_generation_settings_have_the_same_manners():
    assert from_dict(GenerationConfig, {"temperature": 1, "top_k": 0}).temperature == 1
    with pytest.raises(ConfigError, match="temperature must be from 0 to 2, got 3"):
        GenerationConfig(temperature=3)
    with pytest.raises(ConfigError, match="The nearest is 'max_new_tokens'"):
        from_dict(GenerationConfig, {"max_tokens": 3})
    low, high, default, words = bounds(GenerationConfig, "top_p")
    assert low < default < high and words
