"""Settings: every default, bound and help text has its only home here.

The command line, the web app and the documentation read the fields' metadata.
"""

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from indexing.chunking import CHUNK_SIZE
from indexing.errors import ConfigError

Settings = TypeVar("Settings")


def setting(default: Any, help: str, low: float | None = None, high: float | None = None, **more: Any) -> Any:
    """A dataclass field with its help text and bounds (inclusive)."""
    metadata = {"help": help, "low": low, "high": high, **more}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


PAPER = "paper"
REFERENCE = "reference"
MODEL_TYPE = "retro-explorer"  # what a config.json says to Hugging Face's Auto classes
# What Hugging Face writes into a config.json beside the model's own settings: always, and if somebody set it.
_HUGGING_FACE_KEYS = {"model_type", "architectures", "dtype", "transformers_version"}
_HUGGING_FACE_OPTIONS = {
    "_name_or_path", "auto_map", "torch_dtype", "use_cache", "return_dict", "output_attentions",
    "output_hidden_states", "chunk_size_feed_forward", "problem_type", "id2label", "label2id",
    "task_specific_params", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id",
}  # fmt: skip
_WIDEST, _ROWS = 1 << 17, 1 << 20  # far beyond any model: a slip of the pen, not a size
# Log-linear tables: one bucket per distance in half of the table, or of each of its two directions.
_EXACT_PARTS = {
    "enc_sa_pos_bias_num_buckets": 4, "enc_ca_pos_bias_num_buckets": 4,
    "dec_sa_pos_bias_num_buckets": 2, "dec_cca_pos_bias_num_buckets": 4,
}  # fmt: skip


@dataclass(frozen=True)
class RetroConfig:
    """Sizes of a RETRO model, under the reference implementation's field names.

    A JSON file without `mode` was written for the reference and is read in reference mode.
    """

    mode: str = setting(
        PAPER,
        "paper: the paper's positions and 1/sqrt(d); reference: the reference's maths",
        choices=(PAPER, REFERENCE),
    )
    num_embeddings: int = setting(28996, "tokens in the vocabulary", 2, 1 << 24)
    pad_token_idx: int = setting(0, "id of the padding token, which is never read", 0)
    chunk_size: int = setting(CHUNK_SIZE, "tokens in a chunk (m)", 1, 4096)
    dropout_p: float = setting(0.1, "dropout while training", 0.0, 0.99)
    tie_embeddings: bool = setting(False, "output layer = decoder token embeddings")
    pos_bias: str = setting(
        "linear", "buckets of the relative position bias", choices=("linear", "log-linear")
    )
    pos_bias_max_distance: int = setting(2048, "distance from which log-linear buckets are equal", 2, 1 << 30)

    enc_share_decoder_embs: bool = setting(
        False, "encoder uses the decoder's token embeddings (equal widths)"
    )
    enc_hidden_dim: int = setting(768, "encoder width", 1, _WIDEST)
    enc_num_layers: int = setting(2, "encoder layers", 1, 512)
    enc_ffn_dim: int = setting(3072, "encoder feed-forward width", 1, 8 * _WIDEST)
    enc_num_heads: int = setting(4, "encoder attention heads", 1, 1024)
    enc_qkv_dim: int = setting(768, "encoder attention width, all heads together", 1, _WIDEST)
    enc_ca_layers: list[int] = setting([0, 1], "encoder layers (from 0) that read the chunk")
    enc_sa_pos_bias_num_buckets: int = setting(256, "position buckets, encoder self-attention", 1, _ROWS)
    enc_ca_pos_bias_num_buckets: int = setting(192, "position buckets, encoder cross-attention", 1, _ROWS)

    dec_hidden_dim: int = setting(768, "decoder width", 1, _WIDEST)
    dec_num_layers: int = setting(2, "decoder layers", 1, 512)
    dec_ffn_dim: int = setting(3072, "decoder feed-forward width", 1, 8 * _WIDEST)
    dec_num_heads: int = setting(4, "decoder attention heads", 1, 1024)
    dec_qkv_dim: int = setting(768, "decoder attention width, all heads together", 1, _WIDEST)
    dec_cca_layers: list[int] = setting([1], "decoder layers (from 0) with chunked cross-attention")
    dec_sa_pos_bias_num_buckets: int = setting(2048, "position buckets, decoder self-attention", 1, _ROWS)
    dec_cca_pos_bias_num_buckets: int = setting(192, "position buckets, chunked cross-attention", 1, _ROWS)
    is_encoder_decoder: bool = setting(False, "accepted for compatibility; has no effect")

    def __post_init__(self) -> None:
        check_bounds(self)
        for part in ("enc", "dec"):
            width, heads = getattr(self, f"{part}_qkv_dim"), getattr(self, f"{part}_num_heads")
            if width % heads:
                raise ConfigError(
                    f"{part}_qkv_dim must be a multiple of {part}_num_heads, got {width} and {heads}. "
                    f"Nearest multiple: {max(1, round(width / heads)) * heads}."
                )
        for name, layers in (("enc_ca_layers", self.enc_num_layers), ("dec_cca_layers", self.dec_num_layers)):
            bad = [i for i in getattr(self, name) if not 0 <= i < layers]
            if bad:
                raise ConfigError(
                    f"{name} names layer {bad[0]}, but layers count from 0 to {layers - 1}. Remove it."
                )
        if self.enc_share_decoder_embs and self.enc_hidden_dim != self.dec_hidden_dim:
            raise ConfigError(
                "enc_share_decoder_embs needs equal widths, got "
                f"enc_hidden_dim {self.enc_hidden_dim} and dec_hidden_dim {self.dec_hidden_dim}. "
                "Make them equal."
            )
        if self.pos_bias == "log-linear":
            for name, parts in _EXACT_PARTS.items():
                exact = getattr(self, name) // parts
                if self.pos_bias_max_distance <= exact:
                    raise ConfigError(
                        f"pos_bias_max_distance must be above {exact:,}, up to which {name} has a bucket for "
                        f"each distance, got {self.pos_bias_max_distance}. Raise it or take fewer buckets."
                    )
        if self.pad_token_idx >= self.num_embeddings:
            raise ConfigError(
                f"pad_token_idx {self.pad_token_idx} is outside a vocabulary of {self.num_embeddings}. "
                "Give the tokenizer's padding id."
            )

    @classmethod
    def from_json(cls, source: Path | str | dict) -> "RetroConfig":
        """Read a file or an already parsed object; see the class docstring for a missing `mode`."""
        values = source if isinstance(source, dict) else read_object(Path(source))
        foreign = _HUGGING_FACE_KEYS
        if "transformers_version" in values:  # elsewhere these are more likely slips
            foreign = foreign | _HUGGING_FACE_OPTIONS
        values = {key: value for key, value in values.items() if key not in foreign}
        return from_dict(cls, {"mode": REFERENCE, **values})

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class GenerationConfig:
    """How to continue a prompt."""

    max_new_tokens: int = setting(128, "tokens to write", 1, 1024)
    temperature: float = setting(0.7, "0 takes the likeliest token; higher is more surprising", 0.0, 2.0)
    top_k: int = setting(40, "choose among the k likeliest tokens; 0 means all", 0, 1000)
    top_p: float = setting(
        0.95, "choose among the likeliest tokens that hold this share of probability", 0.01, 1.0
    )
    min_p: float = setting(
        0.0, "choose among tokens at least this share as likely as the likeliest", 0.0, 1.0
    )
    repetition_penalty: float = setting(
        1.0, "above 1 makes tokens that were already used less likely", 1.0, 2.0
    )
    no_repeat_ngram_size: int = setting(
        0, "never write the same run of this many tokens twice; 0 allows it", 0, 32
    )
    min_length: int = setting(0, "no end of document before this many tokens, prompt included", 0, 1024)
    seed: int = setting(0, "same seed, same text", 0, 2**31 - 1)
    num_neighbours: int = setting(2, "neighbours to retrieve for each chunk (k)", 1, 16)
    retrieval: bool = setting(True, "look up neighbours while writing (Retro[On]) or not (Retro[Off])")
    retrieval_step: int = setting(
        0, "look up the last chunk again every so many tokens; 0 means once a chunk", 0, 4096
    )
    draft_tokens: int = setting(
        8, "tokens guessed from what was read, and read at once: faster, the same text; 0 guesses none", 0, 32
    )
    ignore_end: bool = setting(False, "keep writing when the model ends the document")
    stop: list[str] = setting([], "end the text after one of these strings", item=str)
    int8: bool = setting(False, "weights in 8 bits: faster on a processor, and not quite the same numbers")

    def __post_init__(self) -> None:
        check_bounds(self)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def check_bounds(settings: Any) -> None:
    """Raise ConfigError for the first field whose type, bound or choice is wrong."""
    for spec in fields(settings):
        value, meta = getattr(settings, spec.name), spec.metadata
        expected = type(_default(spec))
        fits = isinstance(value, expected) and not (expected is int and isinstance(value, bool))
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            fits = True
        if expected is list and isinstance(value, tuple):
            fits = True
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigError(f"{spec.name} must be {_described(expected)}, got {value!r}.")
        item = meta.get("item", int)
        if expected is list and not all(type(one) is item for one in value):
            kind = "texts" if item is str else "whole numbers"
            raise ConfigError(f"{spec.name} must be a list of {kind}, got {value!r}.")
        if expected is list and "" in value:
            raise ConfigError(f"{spec.name} must hold no empty text, got {value!r}. Leave it out.")
        low, high = meta.get("low"), meta.get("high")
        if (low is not None and value < low) or (high is not None and value > high):
            span = f"at least {_number(low)}" if high is None else f"from {_number(low)} to {_number(high)}"
            raise ConfigError(f"{spec.name} must be {span}, got {value}.")
        choices = meta.get("choices")
        if choices and value not in choices:
            raise ConfigError(f"{spec.name} must be one of {', '.join(choices)}, got {value!r}.")


def option(name: str) -> str:
    """What the setting `name` is called on a command line."""
    return "--" + name.replace("_", "-")


def as_arguments(settings: Any) -> list[str]:
    """All settings as options of a command line, which reads the same settings from them."""
    words = []
    for spec in fields(settings):
        value, name = getattr(settings, spec.name), option(spec.name)
        if isinstance(value, bool):
            words.append(name if value else name.replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            words += [f"{name}={item}" for item in value]
        else:
            words.append(f"{name}={value}")
    return words


def from_dict(cls: type[Settings], values: dict[str, Any]) -> Settings:
    """Build `cls` from parsed JSON; an unknown key raises ConfigError naming the nearest known one."""
    known = [spec.name for spec in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise ConfigError(
                f"Unknown setting {key!r}: {cls.__name__} has no such field. The nearest is {near[0]!r}."
            )
    return cls(**values)


def read_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that must hold one object. Raises ConfigError with the place of the mistake."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object, got a {type(value).__name__}.")
    return value


def bounds(cls: type, name: str) -> tuple[Any, Any, Any, str]:
    """(low, high, default, help) of a field, for sliders and argument parsers."""
    for spec in fields(cls):
        if spec.name == name:
            return spec.metadata["low"], spec.metadata["high"], _default(spec), spec.metadata["help"]
    raise KeyError(name)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _default(spec: dataclasses.Field) -> Any:
    if spec.default is not dataclasses.MISSING:
        return spec.default
    return spec.default_factory()  # type: ignore[misc]


def _described(expected: type) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}
    return words[expected]


@dataclass(frozen=True)
class FitConfig:
    """How a base language model is RETRO-fitted; see `retro_core.retrofit`."""

    encoder: str = setting(
        "small",
        "neighbour encoder: small, one of its own; base, copies of the base's first layers",
        choices=("small", "base"),
    )
    encoder_layers: int = setting(1, "layers of the neighbour encoder", 1, 512)
    start: str = setting(
        "copy",
        "how CCA begins: zero, random; base, as the base's self-attention; copy, as heads that copy",
        choices=("zero", "base", "copy"),
    )
    cca_layers: list[int] = setting([], "decoder layers (from 0) with CCA; empty for the paper's")
    chunk_size: int = setting(CHUNK_SIZE, "tokens in a chunk (m)", 1, 4096)
    dropout: float = setting(0.0, "dropout in encoder and CCA while training", 0.0, 0.99)
    unfreeze: bool = setting(False, "train the base too: Retro[Off] is then no longer the base")

    def __post_init__(self) -> None:
        check_bounds(self)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainConfig:
    """One training run. A run is resumed with the same settings and continues bit for bit.

    `also` names the arguments of the reference's training command that mean the same.
    """

    data_spec: str = setting("", "data.spec.json of the training set", also="training-dataset-spec")
    tokenizer: str = setting("demo", "model name or folder whose tokenizer.json made the training set")
    validation: str = setting(
        "", "data.spec.json of held-out documents; empty for none", also="validation-dataset-spec"
    )
    training_data_subset_indices: str = setting(
        "", "text file: train on these documents only, one number (from 0) a line; empty for all"
    )
    validation_data_subset_indices: str = setting("", "the same, of the held-out documents")
    model: str = setting("small", "preset name or a RetroConfig JSON file", also="retro-config")
    weights: str = setting(
        "", "train this model further instead: name or folder of one of ours; model and tokenizer are its own"
    )
    reading_only: bool = setting(
        False, "train encoder and CCA alone: what the model writes without neighbours stays as it is"
    )
    base: str = setting(
        "", "RETRO-fit this base instead (`python -m retro_core models` lists some)", also="retrofit"
    )
    encoder: str = setting("small", "of a base: see FitConfig.encoder", choices=("small", "base"))
    encoder_layers: int = setting(1, "of a base: layers of the neighbour encoder", 1, 512)
    start: str = setting("copy", "of a base: see FitConfig.start", choices=("zero", "base", "copy"))
    cca_layers: list[int] = setting(
        [], "of a base: decoder layers (from 0) with CCA; the paper's if not given"
    )
    unfreeze: bool = setting(False, "of a base: train it too; Retro[Off] is then no longer the base")
    run: str = setting("run", "name of the run; an existing one is resumed")
    experiment_dir: str = setting(
        "",
        "folder of runs, instead of RETRO_HOME/runs; without a name the run is version_N as in the reference",
    )
    steps: int = setting(3000, "optimiser steps; the reference has no limit", 1, 10_000_000)
    batch_size: int = setting(
        4, "windows of full length per batch, of all devices together: the reference means each", 1, 4096
    )
    accumulate_grad_batches: int = setting(1, "batches whose gradients make one step", 1, 4096)
    max_len: int = setting(
        512,
        "tokens in a window, a multiple of the chunk size; a document's later windows are read too, the "
        "reference reads whole documents unless told otherwise",
        2,
        65536,
    )
    num_neighbours: int = setting(
        2, "neighbours read for each chunk (k); 0 for all there are, the reference's default", 0, 64
    )
    num_continuation_chunks: int = setting(1, "chunks after a neighbour that are read with it", 0, 64)
    shuffle: bool = setting(True, "a new order in each epoch; the reference keeps the files' order")
    schedule: str = setting(
        "linear",
        "how the learning rate ends: constant, which is the reference's; or falling linear or cosine",
        choices=("constant", "linear", "cosine"),
    )
    learning_rate: float = setting(1e-3, "peak of the schedule; 1e-4 in the reference", 0.0, 1.0)
    reading_rate: float = setting(
        0.2,
        "learning rate of encoder and CCA, as a share of the other weights'; with a base theirs is 1",
        0.0,
        10.0,
    )
    base_rate: float = setting(0.1, "of a base that is trained too: its learning rate, as a share", 0.0, 10.0)
    warmup: int = setting(100, "steps of linear warm-up; none in the reference", 0, 1_000_000)
    decay_share: float = setting(
        0.25, "last share of the steps, over which the learning rate falls", 0.0, 1.0
    )
    final_rate: float = setting(0.05, "share of the peak that it ends on", 0.0, 1.0)
    weight_decay: float = setting(
        0.1, "AdamW's decay of matrices; norms, biases and embeddings have none", 0.0, 1.0
    )
    clip: float = setting(1.0, "largest gradient norm; 0 for none", 0.0, 1000.0)
    copy_share: float = setting(
        0.0, "share of chunks whose neighbour is at first a moved piece of the text itself", 0.0, 1.0
    )
    copy_steps: int = setting(0, "steps over which copy_share falls to 0", 0, 10_000_000)
    stranger_share: float = setting(
        0.1, "share of chunks that read random neighbours, to learn to ignore what does not help", 0.0, 1.0
    )
    ignore_share: float = setting(
        0.0,
        "share of batches that read strangers throughout, to learn to say what the model says without any",
        0.0,
        1.0,
    )
    evaluate_every: int = setting(
        200, "steps between evaluations; 20,000 batches in the reference", 1, 10_000_000,
        also="val-check-interval",
    )  # fmt: skip
    evaluate_windows: int = setting(24, "held-out windows in each evaluation while training", 1, 100_000)
    samples: int = setting(2, "held-out texts continued at each evaluation, On and Off; 0 for none", 0, 64)
    save_every: int = setting(200, "steps between checkpoints", 1, 10_000_000)
    log_every: int = setting(10, "steps between lines of the log", 1, 10_000_000)
    tensorboard: bool = setting(True, "write the numbers for TensorBoard too")
    seed: int = setting(0, "of initial weights, order and dropout", 0, 2**31 - 1)
    precision: str = setting(
        "32",
        "of the products: 32 bits, bf16, or fp16 with scaled losses; weights and sums are in 32 bits",
        choices=("32", "bf16", "fp16"),
    )
    device: str = setting(
        "auto", "where to train: the first of cuda, mps, cpu", choices=("auto", "cpu", "cuda", "mps")
    )
    gpus_per_node: int = setting(
        0,
        "devices (or processes, on cpu) of each computer; 0 for one, or as many as torchrun started",
        0,
        1024,
    )
    num_nodes: int = setting(1, "computers", 1, 4096)
    strategy: str = setting(
        "ddp",
        "of several devices: ddp, each has all weights; fsdp, each has a share of them",
        choices=("ddp", "fsdp"),
    )
    num_workers: int = setting(1, "batches made ahead of time, by one thread; 0 for none", 0, 64)
    threads: int = setting(0, "processor threads; 0 for torch's own choice", 0, 1024)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.weights and self.base:
            raise ConfigError(
                f"Expected a model to train further or a base to fit, got both, {self.weights!r} and "
                f"{self.base!r}. Leave weights or base out."
            )
        if self.reading_only and not self.weights:
            raise ConfigError(
                "reading_only keeps what a trained model writes without neighbours, but weights names none. "
                "Name a model; a base that is fitted is kept without it."
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def fit_config(config: TrainConfig) -> FitConfig:
    """What `retrofit` is asked for by a run with a base."""
    return FitConfig(
        encoder=config.encoder,
        encoder_layers=config.encoder_layers,
        start=config.start,
        cca_layers=list(config.cca_layers),
        unfreeze=config.unfreeze,
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """How held-out documents are measured; see `retro_core.evaluation.measure`."""

    num_neighbours: int = setting(2, "neighbours read for each chunk (k)", 1, 100)
    max_len: int = setting(
        512,
        "tokens in a window, a multiple of the chunk size: as many as the model was trained on",
        2,
        65536,
        also="window",
    )
    stride: int = setting(
        0, "tokens from the beginning of a window to that of the next; 0 for half a window", 0, 65536
    )
    limit: int = setting(0, "documents of each probe, drawn at random; 0 for all", 0, 10_000_000)
    sweep_limit: int = setting(
        16,
        "documents for what takes many passes (sweeps and comparators); 0 for as many as `limit`",
        0,
        10_000_000,
    )
    knn_tokens: int = setting(200_000, "tokens of the datastore that kNN-LM remembers", 1000, 100_000_000)
    question_limit: int = setting(200, "questions of each set, and prompts to swap; 0 for all", 0, 10_000_000)
    seed: int = setting(0, "of everything that is drawn", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        check_bounds(self)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
