"""A BERT-like sentence encoder, run by hand: text -> vector as sentence-transformers computes it, but faster.

What makes it faster: texts of about equal length share a batch, so little is computed for padding; a batch is
small enough for the processor's cache; queries, keys and values are one product; and torch is all that is
imported, not the ten seconds of sentence-transformers. The vectors are the same to the sixth digit.

Precisions
    exact   float32; on a CUDA device float16, whose vectors agree to a cosine of 0.99999
    bf16    products in bfloat16, the rest in float32: for processors that have instructions for it, which is
            measured; on others, where it would be ten times slower, the same as exact
    int8    weights of 7 bits in int8, every token's activations in 8 bits, sums in int32. Two products of an
            8-bit and a 7-bit number fit into 16 bits, so the instructions of processors without VNNI cannot
            overflow: they give the same vectors as those with it, only more slowly.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from indexing import files

if TYPE_CHECKING:
    import torch

Precision = Literal["exact", "bf16", "int8"]
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"

# Tokens of a batch. On a CPU a thread's share should be near in size to its second-level cache; but threads
# wait for each other after every operation: small batches suffer from that on a busy computer.
# A GPU wants to be kept busy.
_TOKENS_PER_THREAD, _TOKENS_ON_CUDA = 768, 1 << 15
_TEXTS_AT_ONCE = 4096  # that are tokenised before the first is embedded: bounds what is in memory
_INT8_ACTIVATION, _INT8_WEIGHT = 127, 63


@dataclass(frozen=True)
class Encoder:
    """What config files of a model folder say, as far as vectors depend on it."""

    width: int
    layers: int
    heads: int
    epsilon: float
    max_length: int  # tokens, with the marks at both ends; the rest of a text is not seen
    pooling: Literal["mean", "cls"]

    @classmethod
    def read(cls, folder: Path) -> "Encoder | None":
        """None if this module cannot compute what the folder's model computes."""
        try:
            modules = [entry["type"].rpartition(".")[2] for entry in _json(folder / "modules.json")]
            config, pooling = _json(folder / "config.json"), _json(folder / "1_Pooling" / "config.json")
            settings = _json(folder / "sentence_bert_config.json")
            prompts = _json(folder / "config_sentence_transformers.json")
            plain = (
                modules in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
                and config["model_type"] == "bert"
                and config["hidden_act"] == "gelu"
                and config.get("position_embedding_type", "absolute") == "absolute"
                and not settings.get("do_lower_case")
                and not any((prompts.get("prompts") or {}).values())
                and (folder / WEIGHTS_FILE).is_file()
                and (folder / TOKENIZER_FILE).is_file()
            )
            found = _pooling(pooling)
            if not plain or found is None:
                return None
            return cls(
                width=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                epsilon=config["layer_norm_eps"],
                max_length=min(_max_length(folder, settings), config["max_position_embeddings"]),
                pooling=found,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


class BertEmbedder:
    """An `Embedder`. Made by `open_embedder`; loading takes the seconds that importing torch takes."""

    def __init__(self, name: str, folder: Path, encoder: Encoder, precision: Precision = "exact"):
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self.name, self.dim = name, encoder.width
        self.encoder, self.precision, self._folder = encoder, precision, folder
        self.device = "cuda" if precision != "int8" and torch.cuda.is_available() else "cpu"
        self._type = torch.float16 if self.device == "cuda" else torch.float32
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(encoder.max_length)
        weights = load_file(folder / WEIGHTS_FILE)
        # Checkpoints of some libraries have the name of the whole in front of every part's.
        self._weights = {name.removeprefix("bert."): value for name, value in weights.items()}
        linear = _int8_linear if precision == "int8" else _linear
        if precision == "bf16" and self.device == "cpu" and _bf16_pays():
            linear = _bf16_linear
        self._embedding = self._get("embeddings.word_embeddings.weight")
        # All tokens are of type 0, so its vector belongs to every position.
        types = self._get("embeddings.token_type_embeddings.weight")
        self._positions = self._get("embeddings.position_embeddings.weight") + types[0]
        self._first_norm = self._norm("embeddings.LayerNorm")
        self._layers = [self._layer(f"encoder.layer.{i}", linear) for i in range(encoder.layers)]
        del self._weights

    @cached_property
    def weights_sha256(self) -> str:
        return files.sha256(self._folder / WEIGHTS_FILE)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the weights' and all that vectors depend on besides."""
        tokenizer = files.sha256(self._folder / TOKENIZER_FILE)
        facts = {"kind": f"bert {self.precision}", "weights": self.weights_sha256, "tokenizer": tokenizer}
        facts |= asdict(self.encoder) | {"normalise": True, "prompt": ""}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def old_fingerprint(self) -> str | None:
        """What datastores of format 1 have stored: only the exact embedder could make them."""
        return self.weights_sha256 if self.precision == "exact" else None

    @property
    def least_cosine(self) -> float:
        """Between vectors of one text on two processors. Their last bits differ, and where that carries a
        number over the border between two whole ones, the difference grows: to 0.9991, as far as was seen."""
        return 0.99 if self.precision == "int8" else 0.999

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """n texts -> (n, dim) float32, each row of length 1."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            rows = slice(start, start + _TEXTS_AT_ONCE)
            found = self._tokenizer.encode_batch_fast(list(texts[rows]))
            self._fill([encoding.ids for encoding in found], vectors[rows])
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """n texts -> (n,) int64: tokens that are read of each, with the marks at both ends."""
        return np.array([len(found.ids) for found in self._tokenizer.encode_batch_fast(list(texts))])

    @property
    def num_pieces(self) -> int:
        return len(self._embedding)

    def embed_pieces(self, pieces: Sequence[int]) -> np.ndarray:
        """n word pieces, each a text of its own -> (n, dim) float32, each row of length 1."""
        vectors = np.empty((len(pieces), self.dim), dtype=np.float32)
        begin, end = self._tokenizer.encode("").ids
        self._fill([[begin, piece, end] for piece in pieces], vectors)
        return vectors

    def _fill(self, ids: list[list[int]], vectors: np.ndarray) -> None:
        """Fill vectors (n, dim) for n texts, given as tokens."""
        import torch

        lengths = np.array([len(row) for row in ids])
        order = np.argsort(lengths, kind="stable")
        room = _TOKENS_ON_CUDA if self.device == "cuda" else _TOKENS_PER_THREAD * torch.get_num_threads()
        start = 0
        with torch.inference_mode():
            while start < len(order):
                rows = order[start : start + _fitting(lengths[order[start:]], room)]
                vectors[rows] = self._forward([ids[row] for row in rows]).cpu().numpy()
                start += len(rows)

    def _forward(self, ids: list[list[int]]) -> "torch.Tensor":
        """b rows of tokens -> (b, dim) float32 of length 1."""
        import torch
        from torch.nn import functional as F

        b, n, heads = len(ids), max(map(len, ids)), self.encoder.heads
        tokens = np.zeros((b, n), dtype=np.int64)
        real = np.zeros((b, n), dtype=bool)
        for row, found in enumerate(ids):
            tokens[row, : len(found)], real[row, : len(found)] = found, True
        mask = torch.from_numpy(real).to(self.device)
        seen = None if real.all() else mask[:, None, None, :]
        x = self._embedding[torch.from_numpy(tokens).to(self.device)] + self._positions[:n]
        x = self._first_norm(x).view(b * n, self.dim)
        for attended_by, attended, widened, narrowed, norm_1, norm_2 in self._layers:
            q, k, v = attended_by(x).view(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            x = norm_1(x + attended(read.transpose(1, 2).reshape(b * n, self.dim)))
            x = norm_2(x + narrowed(F.gelu(widened(x))))
        x = x.view(b, n, self.dim).float()
        # A vector is scaled to length 1 in the end, so the sum is as good as the mean.
        pooled = x[:, 0] if self.encoder.pooling == "cls" else (x * mask.unsqueeze(-1)).sum(1)
        return F.normalize(pooled, dim=-1)

    def _layer(self, at: str, linear: Callable) -> tuple[Callable, ...]:
        parts = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
        return (
            self._linear(parts, linear),
            self._linear([f"{at}.attention.output.dense"], linear),
            self._linear([f"{at}.intermediate.dense"], linear),
            self._linear([f"{at}.output.dense"], linear),
            self._norm(f"{at}.attention.output.LayerNorm"),
            self._norm(f"{at}.output.LayerNorm"),
        )

    def _linear(self, parts: list[str], linear: Callable) -> Callable:
        """The products of several parts with the same input as one."""
        import torch

        weight = torch.cat([self._get(f"{part}.weight") for part in parts])
        return linear(weight, torch.cat([self._get(f"{part}.bias") for part in parts]))

    def _norm(self, part: str) -> Callable:
        from torch.nn import functional as F

        weight, bias = self._get(f"{part}.weight"), self._get(f"{part}.bias")
        return lambda x: F.layer_norm(x, weight.shape, weight, bias, self.encoder.epsilon)

    def _get(self, name: str) -> "torch.Tensor":
        return self._weights[name].to(self.device, self._type)


def _fitting(lengths: np.ndarray, room: int) -> int:
    """How many of the texts of these lengths, which ascend, make a batch of `room` tokens; at least one."""
    tokens = lengths * np.arange(1, len(lengths) + 1)  # with padding to the longest
    return max(1, int(np.searchsorted(tokens, room, side="right")))


def _linear(weight: "torch.Tensor", bias: "torch.Tensor") -> Callable:
    from torch.nn import functional as F

    return lambda x: F.linear(x, weight, bias)


def _bf16_linear(weight: "torch.Tensor", bias: "torch.Tensor") -> Callable:
    """What is added up from layer to layer stays in float32."""
    import torch
    from torch.nn import functional as F

    weight, bias = weight.to(torch.bfloat16), bias.to(torch.bfloat16)
    return lambda x: F.linear(x.to(torch.bfloat16), weight, bias)


def _bf16_pays() -> bool:
    """Whether this processor multiplies in bfloat16 faster than in float32; 20 ms."""
    import torch

    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        rows, weight = torch.ones(512, 384, dtype=kind), torch.ones(384, 384, dtype=kind)
        taken = []
        for _ in range(5):
            since = time.perf_counter()
            rows @ weight
            taken.append(time.perf_counter() - since)
        seconds[kind] = min(taken)
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]


def _int8_linear(weight: "torch.Tensor", bias: "torch.Tensor") -> Callable:
    """Each output has a scale for its weights, each token one for its activations."""
    import torch

    whole, scale = in_whole_numbers(weight)

    def product(x: "torch.Tensor") -> "torch.Tensor":
        largest = x.abs().amax(1, keepdim=True).clamp_min_(1e-12)
        numbers = x.mul(_INT8_ACTIVATION / largest).round_().to(torch.int8)
        sums = torch._int_mm(numbers, whole.t())
        result = sums * (largest / _INT8_ACTIVATION)
        return torch.addcmul(bias, result, scale, out=result)

    return product


def in_whole_numbers(weight: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """weight (out, in) -> (out, in) int8 of at most 63, and a scale (out,); times its scale it is about the
    weight."""
    import torch

    scale = (weight.abs().amax(1) / _INT8_WEIGHT).clamp_min(1e-12)
    return (weight / scale[:, None]).round().to(torch.int8), scale


def _pooling(config: dict) -> Literal["mean", "cls"] | None:
    """Of both ways that sentence-transformers has written it; None if it is another or several."""
    named = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    found = config.get("pooling_mode")
    if found is None:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        found = named.get(on[0]) if len(on) == 1 else None
    return found if found in ("mean", "cls") else None


def _max_length(folder: Path, settings: dict) -> int:
    """sentence-transformers kept it in its own file, and since version 6 with the tokenizer's settings."""
    return settings.get("max_seq_length") or _json(folder / "tokenizer_config.json")["model_max_length"]


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())
