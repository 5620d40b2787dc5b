"""From a text and the neighbours that were read to a Trace: what did retrieval change, and where?"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from indexing.chunking import num_chunks, read_window
from indexing.datastore import Datastore
from indexing.neighbours import Neighbours
from indexing.tokenizer import Tokenizer
from retro_core.checkpoint import LoadedModel
from retro_core.config import GenerationConfig
from retro_core.model import Capture, RetroOutput, neighbour_tensor
from retro_core.trace import FORMAT, VERSION, Trace, copy_spans, neighbour_cards, pack_heads, pack_map

ALTERNATIVES = 5


@torch.inference_mode()
def explain(
    loaded: LoadedModel,
    ids: Sequence[int],
    neighbours: Sequence[Neighbours],
    datastore: Datastore | None,
    config: GenerationConfig,
    *,
    prompt_tokens: int | None = None,
    title: str = "",
) -> Trace:
    """Score the tokens `ids` with the neighbours that were read and without, and say what differs.

    neighbours     of each complete chunk that was looked up, in order, each with leading axes (1,); the
                   last chunks may be missing (they were never read), none at all is Retro[Off]
    prompt_tokens  how many of the tokens were given, padding included; all by default
    """
    model, tokenizer, m = loaded.model, loaded.tokenizer, loaded.config.chunk_size
    tokens = torch.tensor([list(ids)], device=model.device)
    n = tokens.shape[1]
    pad = int((tokens == tokenizer.pad_id).sum())
    off = model(tokens, capture=Capture(log_probs=True))
    on, found = off, None
    if neighbours and datastore is not None:
        found = _complete(neighbours, num_chunks(n, m))
        on = model(
            tokens,
            neighbour_tensor(found, model.device),
            capture=Capture(attention=True, write_strength=True, log_probs=True),
        )
    texts = tokenizer.token_texts(list(ids))
    length = found.tokens.shape[-1] if found else 2 * m
    return Trace.from_json(
        {
            "format": FORMAT,
            "version": VERSION,
            "title": title,
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "model": {
                "name": loaded.name,
                "fingerprint": loaded.fingerprint,
                "parameters": model.num_parameters(),
                "cca_layers": sorted(loaded.config.dec_cca_layers),
                "heads": loaded.config.dec_num_heads,
                "chunk_size": m,
                "num_neighbours": config.num_neighbours,
                "neighbour_len": length,
            },
            "datastore": datastore
            and {
                "name": datastore.name,
                "fingerprint": datastore.fingerprint,
                "embedder": datastore.embedder_name,
                "metric": "squared L2",
                "num_chunks": len(datastore.chunks),
                "num_documents": datastore.num_documents,
            },
            "retrieval": found is not None,
            "sampling": config.to_dict(),
            "pad": pad,
            "prompt_tokens": n if prompt_tokens is None else prompt_tokens,
            "tokens": _tokens(list(ids), texts, pad, on, off, tokenizer),
            "chunks": _chunks(list(ids), found, len(neighbours), datastore, tokenizer, on, off, m)
            if found
            else [],
        }
    )


def _complete(neighbours: Sequence[Neighbours], count: int) -> Neighbours:
    """All chunks' neighbours, with nothing for the chunks that were not looked up."""
    found = neighbours[0]
    for later in neighbours[1:]:
        found = found.followed_by(later)
    missing = count - len(found.ids)
    if missing > 0:
        k, r = found.tokens.shape[1:]
        found = found.followed_by(Neighbours.none((missing,), k, r, found.pad_id))
    return found


def _tokens(
    ids: list[int],
    texts: list[str],
    pad: int,
    on: RetroOutput,
    off: RetroOutput,
    tokenizer: Tokenizer,
) -> list[dict[str, Any]]:
    lp_on, lp_off = on.log_probs[0].tolist(), off.log_probs[0].tolist()
    best_on, best_off = _alternatives(on.logits[0], tokenizer), _alternatives(off.logits[0], tokenizer)
    strength = on.write_strength
    written = [[]] * len(ids) if strength is None else strength[:, 0].T.tolist()  # (n, layer)
    tokens = []
    for t, (token, text) in enumerate(zip(ids, texts, strict=True)):
        known = t > pad  # the first token has nothing before it
        tokens.append(
            {
                "id": token,
                "text": text,
                "lp_on": lp_on[t] if known else None,
                "lp_off": lp_off[t] if known else None,
                "alts_on": best_on[t - 1] if known else [],
                "alts_off": best_off[t - 1] if known else [],
                "write": written[t - 1] if known and any(written[t - 1]) else None,
            }
        )
    return tokens


def _alternatives(logits: Tensor, tokenizer: Tokenizer) -> list[list[list[Any]]]:
    """logits (n, v) -> for each position its likeliest next tokens as [text, log probability]."""
    values, best = logits.float().log_softmax(dim=-1).topk(min(ALTERNATIVES, logits.shape[-1]))
    words = {token: _shown(tokenizer, token) for token in best.unique().tolist()}
    return [
        [[words[token], value] for token, value in zip(row, row_values, strict=True)]
        for row, row_values in zip(best.tolist(), values.tolist(), strict=True)
    ]


def _shown(tokenizer: Tokenizer, token: int) -> str:
    return "(end of document)" if token == tokenizer.end_id else tokenizer.decode([token])


def _chunks(
    ids: list[int],
    found: Neighbours,
    looked_up: int,
    datastore: Datastore,
    tokenizer: Tokenizer,
    on: RetroOutput,
    off: RetroOutput,
    m: int,
) -> list[dict[str, Any]]:
    # (layer, l, h, m, k, r)
    weights = None if on.attention is None else on.attention.weights[:, 0].float().cpu().numpy()
    gain = (on.log_probs - off.log_probs)[0].cpu().numpy()
    chunks = []
    for u in range(looked_up):
        read = read_window(u, len(ids), m)
        one = Neighbours(found.ids[u], found.distances[u], found.tokens[u], found.pad_id)
        cards = neighbour_cards(one, datastore, tokenizer, m)
        attention = heads = rows = None
        if weights is not None and cards:
            # Row i of a chunk is position u*m + m-1 + i and predicts token (u+1)*m + i: the read window. The
            # last position of the text predicts a token that is not there.
            rows = weights[:, u, :, : len(read)]  # (layer, h, rows, k, r)
            flat = rearrange(rows, "a h i k r -> a h i (k r)")
            attention, heads = pack_map(flat.mean(axis=(0, 1))), pack_heads(flat)
        for card in cards if len(read) else []:
            j = card["rank"] - 1
            mine, theirs = copy_spans(ids[read.start : read.stop], found.tokens[u, j].tolist(), found.pad_id)
            copied = sum(stop - start for start, stop in mine) / len(read)
            card |= {"copied": copied, "copy_read": mine, "copy_neighbour": theirs}
            card["share"] = None if rows is None else float(rows[..., j, :].sum(axis=-1).mean())
        chunks.append(
            {
                "index": u,
                "ask": [u * m, (u + 1) * m],
                "read": [read.start, read.stop],
                "query": tokenizer.decode(ids[u * m : (u + 1) * m]),
                "gain": float(gain[read.start : read.stop].mean()) if len(read) else None,
                "seconds": None,
                "neighbours": cards,
                "attention": attention,
                "attention_heads": heads,
            }
        )
    return chunks
