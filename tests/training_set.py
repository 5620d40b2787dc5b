"""A training set of random tokens, which nobody can guess, a tiny model for it, and what a run left."""

import json
from pathlib import Path

import numpy as np
import torch

from indexing import paths
from indexing.chunks import ChunkStore
from indexing.tokenizer import Tokenizer
from retro_core import training_state
from retro_core.config import TrainConfig
from retro_core.run_folder import METRICS_FILE, checkpoints

M = 8


def make_training_set(folder: Path, tokenizer: Tokenizer, m: int = M) -> dict[str, str]:
    """Settings of a run on it. Each document is there twice; of a chunk's two neighbours one is itself in the
    other copy, and so goes on with what comes next, and one is any chunk."""
    chance = np.random.default_rng(0)
    for name, count in (("data", 600), ("held-out", 9)):
        lengths = chance.integers(2 * m, 5 * m, count)
        documents = [(chance.integers(2, tokenizer.vocab_size, n), np.arange(n)) for n in lengths]
        store = ChunkStore.from_tokens(documents, tokenizer, m)
        (folder / name).mkdir()
        store.save(folder / name)
        own = np.arange(len(store))
        np.save(folder / name / "neighbours.npy", np.stack([own, chance.permutation(own)], axis=1))
        shard = {"chunks": "chunks.npy", "chunk2seq": "chunk2seq.npy", "seq2chunk": "seq2chunk.npy"}
        asking = {
            "shards": [{**shard, "neighbours": "neighbours.npy"}],
            "neighbours": {"index_spec": "i.json"},
        }
        (folder / name / "i.json").write_text(json.dumps([shard]))
        (folder / name / "data.spec.json").write_text(json.dumps(asking))
    tokenizer.save(folder)
    (folder / "model.json").write_text(json.dumps(tiny_sizes(tokenizer)))
    return {
        "data_spec": str(folder / "data" / "data.spec.json"),
        "validation": str(folder / "held-out" / "data.spec.json"),
        "tokenizer": str(folder),
        "model": str(folder / "model.json"),
    }


def tiny_sizes(tokenizer: Tokenizer, **changes) -> dict:
    """A RetroConfig, as JSON."""
    sizes = {
        "mode": "paper", "num_embeddings": tokenizer.vocab_size, "chunk_size": M, "dropout_p": 0.1,
        "tie_embeddings": True, "enc_share_decoder_embs": True, "enc_num_layers": 1, "enc_ca_layers": [0],
        "dec_num_layers": 2, "dec_cca_layers": [1], "dec_sa_pos_bias_num_buckets": 64,
    }  # fmt: skip
    for part in ("enc", "dec"):
        sizes |= {
            f"{part}_hidden_dim": 48,
            f"{part}_ffn_dim": 32,
            f"{part}_num_heads": 2,
            f"{part}_qkv_dim": 48,
        }
    return {**sizes, **changes}


def config(material: dict[str, str], **changes) -> TrainConfig:
    """Settings of a run of seven steps."""
    settings = {
        **material, "run": "try", "steps": 7, "batch_size": 2, "max_len": 4 * M, "warmup": 2, "log_every": 1,
        "evaluate_every": 3, "evaluate_windows": 4, "save_every": 2, "copy_share": 0.5, "copy_steps": 5,
        "samples": 0, "tensorboard": False, "threads": 1,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def checkpoint(run: str) -> dict:
    """Weights, moments and place of the newest checkpoint."""
    return vars(training_state.load(checkpoints(paths.runs_dir() / run)[-1]))


def same(one, other) -> bool:
    """Equal to the last bit, tensors and all."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def lines(run: str) -> list[dict]:
    """The log without what differs between runs: times."""
    text = (paths.runs_dir() / run / METRICS_FILE).read_text()
    found = [json.loads(line) for line in text.splitlines()]
    timed = ("time", "tokens_per_second", "mfu", "seconds_left")
    return [{k: v for k, v in line.items() if k not in timed} for line in found]
