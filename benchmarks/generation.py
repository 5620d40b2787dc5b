"""Writing text, ours beside what recomputes everything and beside a plain GPT-2, taking turns.

    python -m benchmarks.generation [--quick] [--reference DIR] [--held-out data.spec.json]

One text is continued by 256 tokens after a prompt of 64, greedily, in float32; each chunk has 2 neighbours of
128 tokens, which a retriever answers from memory. Random weights and tokens.

    ours        retro_core.generation.generate, one token at a time: what an untrained model writes repeats
                itself and is too easily guessed (benchmarks.drafting tells what guessing is worth)
    ours int8   the same with 8-bit weights (--held-out says what they cost a trained model in nats)
    recompute   the reference's algorithm with our model: for each token, all neighbours are encoded and all
                positions computed again, with logits of all of them
    reference   the same in its own code, a checkout of https://github.com/TobiasNorlund/retro. Its class is
                not what today's `generate` accepts, so the body of that loop is timed: forward and argmax
    gpt2        Hugging Face's GPT-2 with its `generate` and cache, of the same width and depth, and as wide
                in the feed-forward as makes it read as many weights per token as our decoder

The two that recompute are timed at the first and last length of every chunk, between which their time is
taken as a straight line; whole texts of the others. At the end one long text shows whether the last 64 of
1,024 tokens take longer than the first 64, the two stretches between token events.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.machine import opened, table
from benchmarks.processes import REST_SECONDS, Competitor, started
from benchmarks.sizes import Workload, gpt2_inner, sizes, weights_per_token
from indexing import paths
from indexing.neighbours import Neighbours
from retro_core.checkpoint import load_model
from retro_core.config import GenerationConfig, RetroConfig
from retro_core.dataset import RetroDataset
from retro_core.decoding import for_decoding
from retro_core.generation import Token, generate
from retro_core.model import Retro

STRETCH = 64  # tokens at either end of the long text
HELD_OUT_WINDOWS = 24


class Numbers:
    """In place of a tokenizer: a prompt of fixed tokens, and tokens without a spelling."""

    pad_id, end_id = 0, 1

    def __init__(self, vocabulary: int, prompt: int):
        self.prompt = np.random.default_rng(0).integers(2, vocabulary, prompt)

    def encode(self, text: str) -> np.ndarray:
        return self.prompt

    def speller(self) -> Callable[[int], str]:
        return lambda token: ""


class FromMemory:
    """A retriever that always finds the same."""

    def __init__(self, vocabulary: int, work: Workload):
        shape = (1, work.neighbours, work.neighbour_length)
        self.found = Neighbours(
            ids=np.zeros(shape[:2], dtype=np.int64),
            distances=np.zeros(shape[:2], dtype=np.float32),
            tokens=np.random.default_rng(1).integers(2, vocabulary, shape),
        )

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        return self.found


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    machine = opened(options.threads, options.quick)
    rounds = 1 if options.quick else options.rounds
    results = {}
    for size, config in sizes(options.quick).items():
        if not options.size or size in options.size:
            work = Workload.quick(config) if options.quick else Workload()
            results[size] = compare(config, work, rounds, options, machine)
            print(report(size, results[size], work))
    loss = int8_loss(Path(options.held_out)) if options.held_out else None
    if loss:
        print(f"8-bit weights of the bundled model: {loss}\n")
    print(json.dumps({"benchmark": "generation", "machine": machine, "sizes": results, "int8_loss": loss}))


def compare(
    config: RetroConfig, work: Workload, rounds: int, options: argparse.Namespace, machine: dict[str, Any]
) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Retro(config).eval()
    writers = {
        "ours": partial(ours, model, work),
        "ours int8": partial(ours, model, work, int8=True),
        "gpt2": gpt2(config, work),
    }
    pythons = {"ours": sys.executable} | ({"reference": sys.executable} if options.reference else {})
    written: dict[str, list[list[float]]] = {name: [] for name in writers}
    recomputed: dict[str, list[float]] = {}
    long: list[list[float]] = []
    with ExitStack() as stack:
        again = stack.enter_context(
            started(pythons, config, work, "generation", threads=options.threads, reference=options.reference)
        )
        names = {"ours": "recompute", "reference": "reference"}
        for write in writers.values():
            write(4)  # what is prepared once, and does not count
        for competitor in again:
            competitor.ask({"do": "forward", "length": work.prompt})
            recomputed[names[competitor.name]] = []
        for _ in range(rounds):
            for name, write in writers.items():
                time.sleep(REST_SECONDS)
                written[name].append(write(work.new_tokens))
            for competitor in again:
                recomputed[names[competitor.name]].append(recomputing(competitor, config, work))
            time.sleep(REST_SECONDS)
            long.append(writers["ours"](work.long_tokens))
    read_bytes = 4 * weights_per_token(config)
    found = {name: summary(runs, work) for name, runs in written.items()}
    for name, seconds in recomputed.items():
        found[name] = {
            "tokens_per_s": work.new_tokens / statistics.median(seconds),
            "runs": [round(work.new_tokens / s, 3) for s in seconds],
        }
    for name, other in found.items():
        if name != "ours":
            pairs = zip(found["ours"]["runs"], other["runs"], strict=True)
            other["ours_is_faster"] = statistics.median(mine / theirs for mine, theirs in pairs)
    stretch = min(STRETCH, work.long_tokens // 4)
    return {
        "parameters": model.num_parameters(),
        "weight_mb_per_token": read_bytes / 1e6,
        "tokens_per_s_if_memory_were_all": machine["read_gb_per_s"] * 1e9 / read_bytes,
        "competitors": found,
        "last_to_first_time_per_token": statistics.median(flatness(run, stretch) for run in long),
        "long_runs": [[round(1e3 * s, 3) for s in ends(run, stretch)] for run in long],
    }


def ours(model: Retro, work: Workload, new_tokens: int, int8: bool = False) -> list[float]:
    """Seconds from the start to each new token."""
    vocabulary = model.config.num_embeddings
    config = GenerationConfig(
        max_new_tokens=new_tokens, temperature=0.0, ignore_end=True, num_neighbours=work.neighbours,
        int8=int8, draft_tokens=0,
    )  # fmt: skip
    events = generate(model, Numbers(vocabulary, work.prompt), "", FromMemory(vocabulary, work), config)
    since = time.perf_counter()
    return [time.perf_counter() - since for event in events if isinstance(event, Token)]


class Clock:
    """A streamer of Hugging Face's `generate` that notes when it is given tokens; the prompt comes first."""

    def __init__(self):
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def gpt2(config: RetroConfig, work: Workload) -> Callable[[int], list[float]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(
        vocab_size=config.num_embeddings, n_positions=work.prompt + work.new_tokens,
        n_embd=config.dec_hidden_dim, n_layer=config.dec_num_layers, n_head=config.dec_num_heads,
        n_inner=gpt2_inner(config), bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(shape).eval()
    prompt = torch.from_numpy(Numbers(config.num_embeddings, work.prompt).prompt)[None]

    def write(new_tokens: int) -> list[float]:
        clock = Clock()
        since = time.perf_counter()
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False,
            streamer=clock,
        )  # fmt: skip
        assert out.shape[1] == work.prompt + new_tokens
        return [when - since for when in clock.times[1:]]

    return write


def recomputing(competitor: Competitor, config: RetroConfig, work: Workload) -> float:
    """Seconds of `new_tokens` steps that compute everything again, from two measured ones in each chunk."""
    first, end, m = work.prompt, work.prompt + work.new_tokens, config.chunk_size
    total = 0.0
    while first < end:
        last = min(end, (first // m + 1) * m) - 1
        taken = [competitor.ask({"do": "forward", "length": n})["seconds"] for n in (first, last)]
        total += (last - first + 1) * sum(taken) / 2
        first = last + 1
    return total


def summary(runs: list[list[float]], work: Workload) -> dict[str, Any]:
    rates = [len(run) / run[-1] for run in runs]
    return {
        "tokens_per_s": statistics.median(rates),
        "first_token_ms": 1e3 * statistics.median(run[0] for run in runs),
        "ms_per_later_token": 1e3 * statistics.median((run[-1] - run[0]) / (len(run) - 1) for run in runs),
        "runs": [round(rate, 3) for rate in rates],
    }


def ends(run: list[float], stretch: int) -> tuple[float, float]:
    """Seconds per token of the first and the last `stretch` tokens after the first."""
    return (run[stretch] - run[0]) / stretch, (run[-1] - run[-1 - stretch]) / stretch


def flatness(run: list[float], stretch: int) -> float:
    first, last = ends(run, stretch)
    return last / first


@torch.inference_mode()
def int8_loss(spec: Path) -> dict[str, float]:
    """Nats per token of held-out documents under the bundled model, and how often the likeliest token stays
    the same with 8-bit weights."""
    loaded = load_model(paths.DEMO_MODEL)
    data = RetroDataset(spec, loaded.config, num_neighbours=2, max_len=512)
    chosen = np.random.default_rng(0).permutation(len(data.windows))[:HELD_OUT_WINDOWS]
    models = {"float32": loaded.model, "int8": for_decoding(loaded.model, int8=True)}
    total, same, count = dict.fromkeys(models, 0.0), 0, 0
    for index in chosen:
        batch = data.collate([data.windows[index]])
        wanted = batch.labels[0] != -100
        best = []
        for name, model in models.items():
            logits = model(batch.input_ids, batch.neighbour_ids).logits[0][wanted]
            total[name] += F.cross_entropy(logits, batch.labels[0][wanted], reduction="sum").item()
            best.append(logits.argmax(dim=-1))
        same += int((best[0] == best[1]).sum())
        count += int(wanted.sum())
    nats = {f"nats_{name}": value / count for name, value in total.items()}
    return {**nats, "same_likeliest": same / count, "tokens": count}


def report(size: str, result: dict[str, Any], work: Workload) -> str:
    rows = [
        [
            f"{size} {name}", found["tokens_per_s"], found.get("ours_is_faster"), found.get("first_token_ms"),
            found.get("ms_per_later_token"),
            found["tokens_per_s"] / result["tokens_per_s_if_memory_were_all"],
        ]
        for name, found in result["competitors"].items()
    ]  # fmt: skip
    header = ("size", "tokens/s", "ours faster x", "first token ms", "ms per later token", "of memory's rate")
    return (
        f"{table(header, rows)}\n"
        f"{result['weight_mb_per_token']:.0f} MB of float32 weights are read per token: "
        f"{result['tokens_per_s_if_memory_were_all']:.0f} tokens/s if reading memory were all. Last to first "
        f"stretch of {work.long_tokens} tokens: {result['last_to_first_time_per_token']:.3f}\n"
    )


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="a toy size, one round: does it run?")
    result.add_argument("--reference", default="", metavar="DIR", help="a checkout of TobiasNorlund/retro")
    result.add_argument("--held-out", default="", metavar="SPEC", help="documents for the loss of int8")
    result.add_argument("--size", action="append", choices=("a", "b"), help="only this one")
    result.add_argument("--rounds", type=int, default=5, help="texts of each (default 5)")
    result.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    return result


if __name__ == "__main__":
    main()
