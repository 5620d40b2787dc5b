"""A model that does nothing but copy: it goes on as its neighbours do after the longest run of two tokens or
more that the text ends with. Where there is none it ends the document. Stands in for a trained Retro."""

import torch
from tiny_models import tiny_config

from indexing.tokenizer import Tokenizer
from retro_core.functions import IGNORED_LABEL
from retro_core.model import RetroOutput


class CopyingModel:
    device = torch.device("cpu")
    training = False

    def __init__(self, tokenizer: Tokenizer, chunk_size: int):
        self.config = tiny_config(chunk_size=chunk_size)
        self.tokenizer = tokenizer
        self.batches: list[int] = []  # rows of each call

    def new_cache(self) -> dict:
        return {}

    def __call__(self, ids, read, labels=None, *, cache=None, loss_reduction="mean", logits_to_keep=0):
        self.batches.append(len(ids))
        if cache is not None:
            ids = cache["ids"] = torch.cat([cache["ids"], ids], dim=1) if cache else ids
        n, m = ids.shape[1], self.config.chunk_size
        positions = [n - 1] if labels is None else range(n)
        logits = torch.zeros(len(ids), len(positions), self.tokenizer.vocab_size)
        for row, tokens in enumerate(ids.tolist()):
            for column, t in enumerate(positions):
                chunk = (t + 1) // m - 1
                readable = [] if read is None or chunk < 0 else read[row, chunk].tolist()
                logits[row, column, self.next(tokens[: t + 1], readable)] = 9.0
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels, ignore_index=IGNORED_LABEL, reduction="none"
            )
        return RetroOutput(logits, loss)

    def next(self, tokens: list[int], neighbours: list[list[int]]) -> int:
        best, copied = 1, self.tokenizer.end_id
        for neighbour in neighbours:
            for t in range(1, len(neighbour)):
                run = 0
                while (
                    run < t
                    and run < len(tokens)
                    and neighbour[t - 1 - run] == tokens[-1 - run] != self.tokenizer.pad_id
                ):
                    run += 1
                if run > best and neighbour[t] != self.tokenizer.pad_id:
                    best, copied = run, neighbour[t]
        return copied
