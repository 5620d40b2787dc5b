"""Guessing tokens from what was read, beside writing one at a time: what it saves, on two kinds of text.

    python -m benchmarks.drafting [--quick] [--threads N] [--rounds N]

The bundled model continues prompts by 128 tokens, in float32, with 2 neighbours out of the passages of 2015:
the beginnings of facts that are in there, and of whole documents of the Factbook of 2025. Lookups are
answered from memory, so that they cost nothing. Told are tokens a second against those without guesses,
prompt by prompt, how many tokens a pass gives, and how many of the texts are the same to the last token
(where two tokens are all but equally likely, rounding may choose).

Then what a pass costs that reads several tokens, in the two sizes of `benchmarks.generation`: this and the
tokens per pass say what guessing is worth there, where no trained model is at hand.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.machine import median_seconds, opened, table
from benchmarks.sizes import Workload, sizes
from indexing import paths
from indexing.datastore import Datastore
from indexing.neighbours import Neighbours, Retriever
from retro_core.checkpoint import LoadedModel, load_model
from retro_core.config import GenerationConfig, RetroConfig
from retro_core.decoding import for_decoding
from retro_core.generation import Finished, Token, generate
from retro_core.model import Retro

GUESSES = (0, 4, 8, 16)
ROWS = (1, 2, 4, 8, 16)
WAYS = {"likeliest": {"temperature": 0.0}, "drawn": {"temperature": 0.7}}
BEGINNING = 24  # tokens of a document that are its prompt


class Remembered:
    """A retriever that is asked each chunk once."""

    def __init__(self, retriever: Retriever):
        self.retriever = retriever
        self.known: dict[bytes, Neighbours] = {}

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        key = np.ascontiguousarray(chunks).tobytes()
        if key not in self.known:
            self.known[key] = self.retriever.retrieve(chunks, num_neighbours)
        return self.known[key]


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    machine = opened(options.threads, options.quick)
    loaded = load_model(paths.DEMO_MODEL)
    count, new_tokens, rounds = (2, 16, 1) if options.quick else (options.prompts, 128, options.rounds)
    written = {}
    passages = Remembered(Datastore.open("factbook-2015", tokenizer=loaded.tokenizer))
    for kind, prompts in texts(loaded, count).items():
        for way, settings in WAYS.items():
            config = GenerationConfig(max_new_tokens=new_tokens, ignore_end=True, **settings)
            found = written[f"{kind}, {way}"] = compare(loaded, prompts, passages, config, rounds)
            rows = [[f"{kind}, {way}, {guesses}", *row.values()] for guesses, row in found.items()]
            print(table(("text, choice, guesses", *found[0]), rows), "\n")
    costs = {name: pass_costs(config, options.quick) for name, config in sizes(options.quick).items()}
    header = ("ms of a pass", *(f"{rows} tokens" for rows in next(iter(costs.values()))))
    print(table(header, [[name, *found.values()] for name, found in costs.items()]), "\n")
    print(json.dumps({"benchmark": "drafting", "machine": machine, "written": written, "pass_ms": costs}))


def texts(loaded: LoadedModel, count: int) -> dict[str, list[str | list[int]]]:
    """Prompts by kind."""
    lines = (paths.ASSETS / "evaluation" / "fact-swap.jsonl").read_text(encoding="utf-8").splitlines()
    facts = [json.loads(line)["prompt"] for line in lines[:: len(lines) // count]][:count]
    whole = Datastore.open(paths.DEMO_DATASTORE, tokenizer=loaded.tokenizer)
    firsts = [n for n in range(len(whole.chunks)) if whole.provenance(n).offset == 0]
    beginnings = [
        whole.chunks.tokens[n][:BEGINNING].astype(np.int64).tolist()
        for n in firsts[:: len(firsts) // count][:count]
    ]
    return {"facts": facts, "documents": beginnings}


def compare(
    loaded: LoadedModel,
    prompts: Sequence[str | list[int]],
    retriever: Retriever,
    config: GenerationConfig,
    rounds: int,
) -> dict[int, dict[str, Any]]:
    """By how many tokens are guessed at once."""
    seconds: dict[int, list[float]] = {guesses: [] for guesses in GUESSES}
    passes: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    same: Counter[int] = Counter()
    for prompt in prompts:
        expected = None
        for taken in range(rounds + 1):  # the first fills the retriever's memory
            for guesses in GUESSES:
                with counted(loaded.model) as calls:
                    text, spent = write(loaded, prompt, retriever, replace(config, draft_tokens=guesses))
                if taken == 0:
                    expected = text if expected is None else expected
                    same[guesses] += text == expected
                    passes[guesses] += len(calls)
                    tokens[guesses] += config.max_new_tokens
                else:
                    seconds[guesses].append(spent)
    return {
        guesses: {
            "tokens/s": config.max_new_tokens / statistics.median(seconds[guesses]),
            "times as fast": statistics.median(
                plain / mine for plain, mine in zip(seconds[0], seconds[guesses], strict=True)
            ),
            "tokens a pass": tokens[guesses] / passes[guesses],
            "same text": same[guesses] / len(prompts),
        }
        for guesses in GUESSES
    }


def write(
    loaded: LoadedModel, prompt: str | list[int], retriever: Retriever, config: GenerationConfig
) -> tuple[list[int], float]:
    """The text, and seconds from its first new token to its last."""
    first = last = 0.0
    for event in generate(loaded.model, loaded.tokenizer, prompt, retriever, config):
        if isinstance(event, Token):
            last = time.perf_counter()
            first = first or last
        elif isinstance(event, Finished):
            return event.tokens, last - first
    raise AssertionError("no end")


@contextmanager
def counted(model: Retro) -> Iterator[list[None]]:
    calls: list[None] = []
    hook = for_decoding(model).register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()


@torch.inference_mode()
def pass_costs(config: RetroConfig, quick: bool) -> dict[int, float]:
    """Milliseconds of a pass by how many tokens it reads, in the middle of a text."""
    torch.manual_seed(0)
    work = Workload.quick(config) if quick else Workload()
    model = for_decoding(Retro(config).eval())
    m, vocabulary = config.chunk_size, config.num_embeddings
    ids = torch.randint(2, vocabulary, (1, 2 * m))
    neighbours = torch.randint(2, vocabulary, (1, 2, work.neighbours, work.neighbour_length))
    cache = model.new_cache()
    model(ids, neighbours, cache=cache, logits_to_keep=1)

    def read(count: int) -> None:
        model(ids[:, :count], neighbours, cache=cache, logits_to_keep=count)
        cache.crop(2 * m)

    rows = [count for count in ROWS if count < m]
    return {
        count: 1e3 * median_seconds(lambda count=count: read(count), 3 if quick else 31) for count in rows
    }


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="two short texts, once: does it run?")
    result.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    result.add_argument("--prompts", type=int, default=24, help="of each kind (default 24)")
    result.add_argument("--rounds", type=int, default=3, help="texts of each (default 3)")
    return result


if __name__ == "__main__":
    main()
