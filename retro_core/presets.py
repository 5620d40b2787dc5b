"""Sizes of models by name; vocabulary and padding come from the tokenizer.

toy, small          for tests and for a laptop; shared embeddings and a one-layer encoder, what copying is
                    learned with on few tokens
base-30m            the size that benchmarks compare implementations at
retro-172m … 7.5b   the paper's four
reference-default   the reference implementation's RetroConfig()
reference-633m      the shape of the checkpoint that the reference implementation released

The paper's sizes (arXiv 2112.04426, Table 2 and Table 10) give width d, heads × head size (together q),
layers, CCA layers, and for all of them an encoder of 2 layers of width 896 that reads the chunk in its first
one. Its counts exclude embeddings. They come out, for its plain decoders, as layers * (5dq + 8d²): queries,
keys, values and output are 4dq, the linear map of relative positions dq, a feed-forward of two matrices and
width 4d is 8d². We have no map of positions but tables of a few thousand numbers, and our feed-forward is
gated: three matrices, 3df. So f = (8d + q) / 3, about 3d, makes the layers equal; below it is a little more,
a multiple of 64, which also pays for the maps of positions in CCA and encoder. Non-embedding parameters in
millions:

                    paper    ours   f
    retro-172m        172   171.8   2,816
    retro-425m        425   424.7   4,736
    retro-1.5b      1,451 1,447.5   6,400
    retro-7.5b      7,532 7,542.3   12,800

Where the paper contradicts itself: its text lets CCA start at layer 6 in every model; Table 10, which we
follow, lets the two larger ones start at 9 ("9, 12, …, 24" and "9, 12, …, 32"; 32 is off that grid, so it
ends at 30 here). Its counts fit a start at 6 better: with 7 and 9 CCA layers of q(3d + 2·896) each the
formula gives 1,451 and 7,531. We take the encoder's heads, which we have not seen stated, to be the 16 of 64
of the smallest model, with which it gives 172 and 425.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from indexing import paths
from indexing.errors import ConfigError
from indexing.tokenizer import Tokenizer
from retro_core.bases import CONFIG_FILE, is_path
from retro_core.config import PAPER, REFERENCE, RetroConfig, TrainConfig


def _small(width: int, layers: int, cca_layers: list[int], ffn: int, heads: int) -> dict[str, Any]:
    return {
        "mode": PAPER, "dropout_p": 0.0, "tie_embeddings": True, "enc_share_decoder_embs": True,
        "enc_hidden_dim": width, "enc_num_layers": 1, "enc_ffn_dim": width, "enc_num_heads": heads,
        "enc_qkv_dim": width, "enc_ca_layers": [0], "dec_hidden_dim": width, "dec_num_layers": layers,
        "dec_ffn_dim": ffn, "dec_num_heads": heads, "dec_qkv_dim": width, "dec_cca_layers": cca_layers,
        "dec_sa_pos_bias_num_buckets": 512,
    }  # fmt: skip


def _paper(width: int, heads: int, head_size: int, layers: int, first_cca: int, ffn: int) -> dict[str, Any]:
    """`first_cca` counts from 1, as the paper does; every third layer from there on reads neighbours."""
    return {
        "mode": PAPER, "dropout_p": 0.0,
        "enc_hidden_dim": 896, "enc_num_layers": 2, "enc_ffn_dim": 3 * 896, "enc_num_heads": 16,
        "enc_qkv_dim": 16 * 64, "enc_ca_layers": [0],
        "dec_hidden_dim": width, "dec_num_layers": layers, "dec_ffn_dim": ffn, "dec_num_heads": heads,
        "dec_qkv_dim": heads * head_size, "dec_cca_layers": list(range(first_cca - 1, layers, 3)),
    }  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    "toy": _small(64, 2, [1], 128, 2),
    "small": _small(256, 4, [1, 3], 768, 4),
    "base-30m": {
        **_small(512, 8, [1, 4, 7], 1024, 8), "enc_num_layers": 2, "enc_ffn_dim": 1024,
        "enc_ca_layers": [0, 1], "dec_sa_pos_bias_num_buckets": 2048,
    },
    "retro-172m": _paper(896, 16, 64, 12, 6, 2816),
    "retro-425m": _paper(1536, 12, 128, 12, 6, 4736),
    "retro-1.5b": _paper(2048, 16, 128, 24, 9, 6400),
    "retro-7.5b": _paper(4096, 32, 128, 32, 9, 12800),
    "reference-default": {"mode": REFERENCE},
    "reference-633m": {
        "mode": REFERENCE,
        "enc_hidden_dim": 896, "enc_num_layers": 2, "enc_ffn_dim": 3584, "enc_num_heads": 14,
        "enc_qkv_dim": 896, "enc_ca_layers": [1],
        "dec_hidden_dim": 1536, "dec_num_layers": 12, "dec_ffn_dim": 6144, "dec_num_heads": 12,
        "dec_qkv_dim": 1536, "dec_cca_layers": [5, 8, 11], "dec_sa_pos_bias_num_buckets": 1024,
    },
}  # fmt: skip

# Settings of a run by what it is for; what is not said is as `TrainConfig` has it.
RUN_PRESETS: dict[str, dict[str, Any]] = {
    "toy": {
        "model": "toy", "steps": 300, "learning_rate": 3e-3, "warmup": 20, "evaluate_every": 25,
        "save_every": 50, "log_every": 2, "tensorboard": False,
    },
    "small": {"model": "small", "steps": 2000, "evaluate_every": 100, "save_every": 100},
    "further": {
        "weights": paths.DEMO_MODEL, "steps": 300, "learning_rate": 3e-4, "warmup": 20, "ignore_share": 0.2,
        "evaluate_every": 50, "save_every": 50, "log_every": 2,
    },
    "fit": {
        "base": "smollm2-135m", "steps": 300, "batch_size": 1, "max_len": 256, "warmup": 10,
        "evaluate_every": 50, "evaluate_windows": 12, "save_every": 50, "log_every": 2,
    },
}  # fmt: skip


def preset(name: str, vocabulary: int, pad: int = 0) -> RetroConfig:
    """The config of a preset for a tokenizer of `vocabulary` tokens that pads with `pad`. KeyError for a name
    that is none; ConfigError if `pad` is outside the vocabulary."""
    return RetroConfig(**{**PRESETS[name], "num_embeddings": vocabulary, "pad_token_idx": pad})


def resolve_model(name: str, tokenizer: Tokenizer) -> RetroConfig:
    """A preset, or a RetroConfig JSON file, with the tokenizer's vocabulary."""
    if name in PRESETS:
        return preset(name, tokenizer.vocab_size, tokenizer.pad_id)
    if not Path(name).is_file():
        raise ConfigError(
            f"{name!r} is neither a preset ({', '.join(PRESETS)}) nor a file. Give one of them."
        )
    config = RetroConfig.from_json(Path(name))
    if config.pad_token_idx != tokenizer.pad_id:
        raise ConfigError(
            f"The tokenizer pads with token {tokenizer.pad_id}, but pad_token_idx in {name} is "
            f"{config.pad_token_idx}. Make them equal."
        )
    if config.num_embeddings < tokenizer.vocab_size:
        raise ConfigError(
            f"The tokenizer has {tokenizer.vocab_size} tokens, but num_embeddings in {name} is "
            f"{config.num_embeddings}. Raise it."
        )
    return config


def tokenizer_and_sizes(config: TrainConfig) -> tuple[Tokenizer, RetroConfig]:
    """Of a run without a base: those of the model that it trains further, or what its settings name.

    Raises ConfigError if the model is a RETRO-fit, whose base is trained by its own run alone, or has nothing
    that reads where only that is to be trained; CheckpointError if it is not there; and what `resolve_model`
    does.
    """
    # Here, so that a command line can list the names without the seconds that torch takes.
    from retro_core.checkpoint import is_fitted, model_folder

    if not config.weights:
        tokenizer = Tokenizer.load(model_folder(config.tokenizer))
        return tokenizer, resolve_model(config.model, tokenizer)
    if is_fitted(config.weights):
        raise ConfigError(
            f"Model {config.weights!r} is a RETRO-fit of a base; only a model from scratch can be trained "
            "further. Resume the run that it was exported from with more steps, or fit the base anew."
        )
    folder = model_folder(config.weights)
    sizes = RetroConfig.from_json(folder / CONFIG_FILE)
    if config.reading_only and not sizes.dec_cca_layers:
        raise ConfigError(
            f"Expected a model that reads, to train its reading only, but {config.weights!r} has no CCA. "
            "Leave reading_only out, or name another model."
        )
    return Tokenizer.load(folder), sizes


def count_parameters(config: RetroConfig) -> tuple[int, int]:
    """(without token embeddings and output layer, all) parameters of a model; no memory is allocated for it.
    A tensor that has two uses (tied output layer, shared embeddings) counts once."""
    # Here, so that a command line can list the names without the seconds that torch takes.
    from retro_core.checkpoint import hollow_model

    model = hollow_model(config)
    sizes = {parameter: parameter.numel() for parameter in model.parameters()}
    embeddings = {model.lm_head.weight, model.base.dec_embs.weight}
    if config.dec_cca_layers:
        embeddings.add(model.base.encoder.enc_embs.weight)
    return sum(size for tensor, size in sizes.items() if tensor not in embeddings), sum(sizes.values())


def located(config: TrainConfig) -> TrainConfig:
    """The same settings with every file and folder told from the root on, so that they mean the same wherever
    the run is resumed from. Names, of presets, models and bases, stay names."""

    def whole(value: str) -> str:
        return os.path.abspath(Path(value).expanduser()) if value else value

    changes = {
        name: whole(getattr(config, name))
        for name in (
            "data_spec", "validation", "training_data_subset_indices", "validation_data_subset_indices",
            "experiment_dir",
        )
    }  # fmt: skip
    if config.model not in PRESETS and Path(config.model).is_file():
        changes["model"] = whole(config.model)
    if "/" in config.tokenizer or os.sep in config.tokenizer:
        changes["tokenizer"] = whole(config.tokenizer)
    for name in ("base", "weights"):
        if getattr(config, name) and is_path(getattr(config, name)):
            changes[name] = whole(getattr(config, name))
    return dataclasses.replace(config, **changes)
