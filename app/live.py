"""A generation in progress, as the partial trace view that the lens draws (docs/formats.md: trace)."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from indexing.chunking import read_window
from indexing.datastore import Datastore
from indexing.neighbours import Neighbours
from indexing.retokenised import RetokenisedDatastore
from retro_core.config import GenerationConfig
from retro_core.trace import FORMAT, VERSION, Trace, neighbour_cards

if TYPE_CHECKING:
    from retro_core.checkpoint import LoadedModel


@dataclass
class LiveText:
    """Takes the events of `generate` one by one; `view` is the state after the last of them."""

    trace_id: str
    model: "LoadedModel"
    datastore: Datastore | RetokenisedDatastore | None
    config: GenerationConfig
    title: str = ""
    pad: int = 0
    prompt_tokens: int = 0
    tokens: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[dict[str, Any]] = field(default_factory=list)
    neighbours: list[Neighbours] = field(default_factory=list)
    stage: str = "writing"
    reason: str = ""
    started: float = field(default_factory=time.monotonic)

    def take(self, event: Any) -> bool:
        """Account for one event; True if it should be shown at once rather than with the next drawing."""
        # By name: importing the classes would import torch.
        kind = type(event).__name__
        if kind == "Prompted":
            self.pad = event.pad
            self.prompt_tokens = len(event.tokens)
            self.stage = "retrieving" if self.config.retrieval else "writing"
            for token, text in zip(event.tokens, event.texts, strict=True):
                self._append(token, text, None)
        elif kind == "Retrieving":
            self.stage = "retrieving"
            self._chunk(event.chunk)
        elif kind == "Retrieved":
            chunk = self._chunk(event.chunk)
            chunk["seconds"] = {"retrieve": event.seconds, "read": None}
            chunk["neighbours"] = neighbour_cards(
                event.neighbours, self.datastore, self.model.tokenizer, self.model.config.chunk_size
            )
            self.neighbours.append(event.neighbours)
        elif kind == "Reading":
            self.stage = "reading"
        elif kind == "Token":
            self.stage = "writing"
            self._append(event.id, event.text, event.logprob)
            return False
        elif kind == "Finished":
            self.reason = event.reason
            return False
        return True

    @property
    def written(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    def view(self, stage: str | None = None, text: str | None = None) -> dict[str, Any]:
        size = self.model.config.chunk_size
        for chunk in self.chunks:
            window = read_window(chunk["index"], len(self.tokens), size)
            chunk["read"] = [window.start, window.stop]
        stage = stage or self.stage
        chunk = len(self.chunks) - 1
        return {
            "format": FORMAT,
            "version": VERSION,
            "id": self.trace_id,
            "title": self.title,
            "model": {
                "name": self.model.name,
                "chunk_size": size,
                "neighbour_len": self._neighbour_len(),
                "cca_layers": sorted(self.model.config.dec_cca_layers),
                "heads": self.model.config.dec_num_heads,
            },
            "datastore": {"name": self.datastore.name} if self.datastore else None,
            "retrieval": self.config.retrieval,
            "pad": self.pad,
            "prompt_tokens": self.prompt_tokens,
            "tokens": list(self.tokens),
            "chunks": [dict(chunk) for chunk in self.chunks],
            "status": {"stage": stage, "chunk": chunk, "text": text or self._status(stage)},
        }

    def finish(self, explained: Trace) -> Trace:
        """The trace with the times that only the generation knows."""
        for chunk, seen in zip(explained.data["chunks"], self.chunks, strict=False):
            chunk["seconds"] = seen["seconds"]
        return explained

    def _status(self, stage: str) -> str:
        number = len(self.chunks)
        if stage == "writing":
            rate = self.written / max(1e-3, time.monotonic() - self.started)
            return f"writing · {self.written} of {self.config.max_new_tokens} tokens · {rate:.0f} tokens/s"
        return f"{stage} for chunk {number}" if number else stage

    def _neighbour_len(self) -> int:
        return (
            int(self.neighbours[0].tokens.shape[-1]) if self.neighbours else 2 * self.model.config.chunk_size
        )

    def _append(self, token: int, text: str, logprob: float | None) -> None:
        self.tokens.append({"id": int(token), "text": text, "lp_on": logprob, "lp_off": None})

    def _chunk(self, index: int) -> dict[str, Any]:
        size = self.model.config.chunk_size
        while len(self.chunks) <= index:
            number = len(self.chunks)
            asked = range(number * size, (number + 1) * size)
            self.chunks.append(
                {
                    "index": number,
                    "ask": [asked.start, asked.stop],
                    "query": "".join(self.tokens[i]["text"] for i in asked),
                    "gain": None,
                    "seconds": None,
                    "neighbours": [],
                    "attention": None,
                }
            )
        return self.chunks[index]
