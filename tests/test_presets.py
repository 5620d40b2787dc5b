"""Named sizes are what they are named after, counted without allocating them."""

import pytest

from indexing.errors import ConfigError
from retro_core.cli import main
from retro_core.presets import PRESETS, count_parameters, preset, resolve_model


@pytest.mark.parametrize("name, millions, width, heads, head_size, layers, cca_layers", [
    ("retro-172m", 172, 896, 16, 64, 12, [6, 9, 12]),
    ("retro-425m", 425, 1536, 12, 128, 12, [6, 9, 12]),
    ("retro-1.5b", 1451, 2048, 16, 128, 24, [9, 12, 15, 18, 21, 24]),
    ("retro-7.5b", 7532, 4096, 32, 128, 32, [9, 12, 15, 18, 21, 24, 27, 30]),
])  # fmt: skip
def test_the_papers_sizes_have_the_papers_counts(name, millions, width, heads, head_size, layers, cca_layers):
    """Borgeaud et al. 2021, Tables 2 and 10; layers count from 1 there."""
    config = preset(name, vocabulary=128_000)
    assert (config.dec_hidden_dim, config.dec_num_layers) == (width, layers)
    assert (config.dec_num_heads, config.dec_qkv_dim) == (heads, heads * head_size)
    assert [layer + 1 for layer in config.dec_cca_layers] == cca_layers
    assert (config.enc_num_layers, config.enc_hidden_dim, config.enc_ca_layers) == (2, 896, [0])
    assert not config.enc_share_decoder_embs and config.mode == "paper"
    inner, all_in_all = count_parameters(config)
    assert abs(inner / (millions * 1e6) - 1) < 0.02
    assert all_in_all == inner + 128_000 * (2 * width + 896)


@pytest.mark.parametrize("name, vocabulary, millions, all_in_all", [
    ("reference-default", 28_996, 44.9, 111_663_360),
    ("reference-633m", 32_128, 505.7, 633_142_016),
])  # fmt: skip
def test_the_references_sizes_have_its_counts(name, vocabulary, millions, all_in_all):
    """As counted in the reference implementation itself."""
    inner, total = count_parameters(preset(name, vocabulary))
    assert total == all_in_all and round(inner / 1e6, 1) == millions


def test_the_benchmarks_size_and_tied_embeddings_counted_once():
    inner, all_in_all = count_parameters(preset("base-30m", 28_996))
    assert round(inner / 1e6, 1) == 31.6 and all_in_all == inner + 28_996 * 512


def test_every_preset_is_offered_by_name_and_the_table_shows_its_size(capsys, tokenizer):
    assert main(["presets", "--vocabulary", "32128"]) == 0
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(table)[1:] == list(PRESETS)
    assert "633,142,016" in table["reference-633m"] and table["retro-172m"].endswith("5, 8, 11")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown for name in PRESETS)
    with pytest.raises(ConfigError) as error:
        resolve_model("retro-1b", tokenizer)
    assert all(name in str(error.value) for name in PRESETS)
    config = resolve_model("toy", tokenizer)
    assert (config.num_embeddings, config.pad_token_idx) == (tokenizer.vocab_size, tokenizer.pad_id)


def test_a_preset_needs_a_possible_vocabulary(capsys):
    assert main(["presets", "--vocabulary", "1"]) == 2
    assert "num_embeddings must be from 2 to 16,777,216, got 1." in capsys.readouterr().err
