"""One competitor in a process of its own, told what to do by lines of JSON on its standard input.

    PYTHON -m benchmarks.worker               (from the root; any Python that has torch)

The first line is a task (see benchmarks/processes.py); every other one is a command: {"do": "step"},
{"do": "forward", "length": n} or {"do": "profile"}. Each is answered by one line of JSON. The end of the
input ends the process.

Competitors
    ours          retro_core
    reference     the code in a checkout of TobiasNorlund/retro
    lucidrains    retro-pytorch from the registry; this Python may be another one than ours
"""

import json
import os
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.memory import peak_memory_gb

LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-4, 0.1, 1.0


class Competitor:
    """`step()` is one of training -> loss; `forward(length)` computes logits of all positions, as generating
    the next token does without a cache."""

    def __init__(self, task: dict[str, Any]):
        self.task, self.config = task, task["config"]
        torch.manual_seed(0)
        self.model = self.build()
        self.optimizer = self.optimise()
        self.batch = self.draw(task["rows"], task["length"])

    def build(self) -> nn.Module:
        raise NotImplementedError

    def loss(self, ids: Tensor, following: Tensor, neighbours: Tensor) -> Tensor:
        raise NotImplementedError

    def optimise(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def draw(self, rows: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random tokens, never the padding: ids (b, n), those that follow (b, n), neighbours (b, l, k, r) for
        all chunks, an incomplete one too."""
        chance = torch.Generator().manual_seed(1)
        shape = (rows, -(-length // self.config["chunk_size"]), self.task["neighbours"])
        tokens = torch.randint(1, self.config["num_embeddings"], (rows, length + 1), generator=chance)
        read = torch.randint(
            1, self.config["num_embeddings"], (*shape, self.task["neighbour_length"]), generator=chance
        )
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), read

    def step(self) -> float:
        loss = self.loss(*self.batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def forward(self, length: int) -> int:
        ids, _, read = self.draw(1, length)
        if length % self.config["chunk_size"]:
            read[:, -1] = self.config["pad_token_idx"]  # what the reference's loop hands in
        with torch.inference_mode():
            return int(self.logits(ids, read)[0, -1].argmax())

    def logits(self, ids: Tensor, read: Tensor) -> Tensor:
        return self.model(ids, read).logits


class Ours(Competitor):
    def build(self) -> nn.Module:
        from retro_core.config import RetroConfig
        from retro_core.model import Retro
        from retro_core.training import keep_memory

        if self.task["purpose"] == "training":
            keep_memory()  # as a run of training does
        return Retro(RetroConfig(**self.config))

    def optimise(self) -> torch.optim.Optimizer:
        # Fused as in retro_core.training; the fused kernel exists for these devices since torch 2.4.
        return torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )

    def loss(self, ids: Tensor, following: Tensor, neighbours: Tensor) -> Tensor:
        return self.model(ids, neighbours, following, logits_to_keep=None).loss


class Reference(Competitor):
    def build(self) -> nn.Module:
        folder = Path(self.task["reference"]) / "src"
        if not (folder / "modeling_retro.py").is_file():
            raise SystemExit(f"Expected modeling_retro.py in {folder}. Give --reference a checkout.")
        sys.path.insert(0, str(folder))
        # Its imports name what its time's transformers had, and a retriever that this does not use.
        stand_in("transformers.generation_utils", GenerationMixin=object)
        stand_in("retrieval", Retriever=object, DummyRetriever=object)
        from modeling_retro import RetroConfig, RetroModelLMHead

        known = RetroConfig.__dataclass_fields__
        model = RetroModelLMHead(RetroConfig(**{k: v for k, v in self.config.items() if k in known}))
        if self.config["tie_embeddings"]:
            model.tie_lm_head_embeddings()
        return model

    def loss(self, ids: Tensor, following: Tensor, neighbours: Tensor) -> Tensor:
        return self.model(ids, neighbours, labels=following).loss


class Lucidrains(Competitor):
    """Its layers count from 1, its embeddings serve encoder and decoder, its output layer is not tied, its
    feed-forward has no gate: two matrices, made 1.5 times as wide so that they weigh as much as our three."""

    def build(self) -> nn.Module:
        # It imports what it retrieves with and what downloads a tokenizer; the network needs neither.
        for name, members in (("faiss", {}), ("autofaiss", {"build_index": None})):
            stand_in(name, **members)
        from retro_pytorch import RETRO
        from retro_pytorch.retro_pytorch import FeedForward

        c = self.config
        model = RETRO(
            num_tokens=c["num_embeddings"], pad_id=c["pad_token_idx"],
            max_seq_len=max(2048, self.task["length"]),
            enc_dim=c["enc_hidden_dim"], enc_depth=c["enc_num_layers"],
            enc_cross_attn_layers=tuple(i + 1 for i in c["enc_ca_layers"]),
            dec_dim=c["dec_hidden_dim"], dec_depth=c["dec_num_layers"],
            dec_cross_attn_layers=tuple(i + 1 for i in c["dec_cca_layers"]),
            heads=c["dec_num_heads"], dim_head=max(32, c["dec_qkv_dim"] // c["dec_num_heads"]),
            chunk_size=c["chunk_size"], enc_attn_dropout=c["dropout_p"], enc_ff_dropout=c["dropout_p"],
            dec_attn_dropout=c["dropout_p"], dec_ff_dropout=c["dropout_p"],
        )  # fmt: skip
        for part, width, inner in (
            (model.encoder, c["enc_hidden_dim"], c["enc_ffn_dim"]),
            (model.decoder, c["dec_hidden_dim"], c["dec_ffn_dim"]),
        ):
            for layer in part.layers:
                layer[2].fn = FeedForward(width, mult=1.5 * inner / width, dropout=c["dropout_p"])
        return model

    def loss(self, ids: Tensor, following: Tensor, neighbours: Tensor) -> Tensor:
        whole = torch.cat([ids, following[:, -1:]], dim=1)
        return self.model(whole, retrieved=neighbours, return_loss=True)

    def logits(self, ids: Tensor, read: Tensor) -> Tensor:
        complete = ids.shape[1] // self.config["chunk_size"]
        return self.model(ids, retrieved=read[:, :complete])


COMPETITORS = {"ours": Ours, "reference": Reference, "lucidrains": Lucidrains}


def stand_in(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


def timed(action: Callable[[], Any]) -> dict[str, Any]:
    """seconds of wall clock, seconds of processor, and what it returned."""
    wall, spent = time.perf_counter(), time.process_time()
    value = action()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - spent, "value": value}


def profiled(action: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of processor by operation, the operation's own time, largest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        action()
    found = [(entry.key, entry.self_cpu_time_total / 1e6, entry.count) for entry in recorded.key_averages()]
    return {"operations": sorted(found, key=lambda entry: -entry[1])[:20], "total": sum(e[1] for e in found)}


def main() -> None:
    # Answers go where standard output went; whatever else prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline())
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    competitor = COMPETITORS[task["competitor"]](task)
    competitor.model.train(task["purpose"] == "training")
    unique = {id(p): p.numel() for p in competitor.model.parameters()}
    print(json.dumps({"parameters": sum(unique.values()), "torch": torch.__version__}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "step":
            answer = timed(competitor.step)
        elif command["do"] == "forward":
            answer = timed(partial(competitor.forward, command["length"]))
        else:
            answer = profiled(competitor.step)
        print(json.dumps({**answer, "peak_memory_gb": peak_memory_gb()}), file=answers)


if __name__ == "__main__":
    main()
