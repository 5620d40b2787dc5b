"""From a text and the neighbours that were read to a Trace: what did retrieval change, and where?"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from indexing.chunking import num_chunks, read_window
from indexing.client import RemoteRetriever
from indexing.datastore import Datastore
from indexing.errors import InputError
from indexing.neighbours import SQUARED_L2, Neighbours, Retriever, overlap
from indexing.retrievers import look_up_text
from indexing.tokenizer import Tokenizer
from retro_core.checkpoint import LoadedModel
from retro_core.config import GenerationConfig
from retro_core.counterfactual import (
    Change,
    Changed,
    Scored,
    all_chunks,
    change,
    leave_one_out,
    read,
    read_without,
)
from retro_core.generation import encode_prompt
from retro_core.model import Capture, Retro
from retro_core.trace import (
    FORMAT,
    VERSION,
    Trace,
    common_runs,
    describe_copies,
    neighbour_cards,
    pack_heads,
    pack_map,
)

ALTERNATIVES = 5
MEASURED = 32  # neighbours of a text up to which each one's influence is measured unless told otherwise


@torch.inference_mode()
def explain(
    loaded: LoadedModel,
    ids: Sequence[int],
    neighbours: Sequence[Neighbours],
    datastore: Datastore | RemoteRetriever | None,
    config: GenerationConfig,
    *,
    prompt_tokens: int | None = None,
    title: str = "",
    influence: bool | None = None,
    changes: Sequence[Change] = (),
) -> Trace:
    """Score the tokens `ids` with the neighbours that were read and without, and say what differs.

    neighbours     of each complete chunk that was looked up, in order, each with leading axes (1,); the
                   last chunks may be missing (they were never read), none at all is Retro[Off]
    prompt_tokens  how many of the tokens were given, padding included; all by default
    influence      whether to measure, exactly, what the text loses without each single neighbour, which costs
                   another pass over what follows each of them; None does up to MEASURED neighbours
    changes        made to the neighbours before anything is scored; see `retro_core.counterfactual`

    Raises InputError for a retrieval step: a trace shows what was looked up once a chunk.
    """
    model, tokenizer, m = loaded.model, loaded.tokenizer, loaded.config.chunk_size
    if neighbours and config.retrieval_step not in (0, m):
        raise InputError(
            f"A trace shows one lookup for each chunk, but this text was written with one every "
            f"{config.retrieval_step} tokens. Write it with retrieval_step 0."
        )
    n, pad = len(ids), sum(token == tokenizer.pad_id for token in ids)
    found, changed = None, None
    if neighbours and datastore is not None:
        found = all_chunks(neighbours, num_chunks(n, m))
        changed = change(found, changes, tokenizer, m)
        found = changed.neighbours
    on = read(model, ids, found, Capture(attention=True, write_strength=True))
    off_logits, off_log_probs = read_without(on)
    left_out = None
    if found is not None and (influence or (influence is None and _count(found) <= MEASURED)):
        left_out = leave_one_out(on)
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
            "datastore": datastore and _about(datastore, SQUARED_L2 if found is None else found.measure),
            "retrieval": found is not None,
            "sampling": config.to_dict(),
            "pad": pad,
            "prompt_tokens": n if prompt_tokens is None else prompt_tokens,
            "tokens": _tokens(list(ids), texts, pad, on, off_logits, off_log_probs, tokenizer),
            "chunks": [
                _chunk(u, list(ids), changed, datastore, tokenizer, on, off_log_probs, left_out, m)
                for u in range(_last_shown(len(neighbours), changed))
            ]
            if changed
            else [],
        }
    )


def score(
    loaded: LoadedModel,
    text: str,
    datastore: Datastore | RemoteRetriever | None,
    config: GenerationConfig,
    *,
    retriever: Retriever | None = None,
    title: str = "",
    influence: bool | None = None,
) -> Trace:
    """The trace of a text as it is: nothing is written, all of its tokens are given.

    retriever  looks into `datastore`; by default its nearest chunks are taken

    Each complete chunk is looked up. A text shorter than a chunk is filled up on the left, as a prompt is
    (see `generation.encode_prompt`), so that it too has neighbours, though nothing has read them.

    Raises InputError for an empty text or one of more than MAX_PROMPT_TOKENS.
    """
    if not text.strip():
        raise InputError("The text to score is empty. Give some text.")
    m = loaded.config.chunk_size
    ids = encode_prompt(loaded.tokenizer, text, m)
    neighbours: list[Neighbours] = []
    if datastore is not None and config.retrieval:
        pad = loaded.tokenizer.pad_id
        found = look_up_text(retriever or datastore, ids, m, config.num_neighbours, pad)
        neighbours = [found.chunks(u, u + 1) for u in range(len(found.ids))]
    return explain(loaded, ids.tolist(), neighbours, datastore, config, title=title, influence=influence)


def _about(datastore: Datastore | RemoteRetriever, measure: str) -> dict[str, Any]:
    """What a trace says of where neighbours come from."""
    if isinstance(datastore, RemoteRetriever):
        info = datastore.info
        embedder, num_chunks, num_documents = info.embedder_name, info.num_chunks, info.num_documents
    else:
        embedder, num_documents = datastore.embedder_name, datastore.num_documents
        num_chunks = len(datastore.chunks)
    return {
        "name": datastore.name,
        "fingerprint": datastore.fingerprint,
        "embedder": embedder,
        "metric": measure,
        "num_chunks": num_chunks,
        "num_documents": num_documents,
    }


def _count(neighbours: Neighbours) -> int:
    """How many there are that somebody could have read."""
    return int(neighbours.mask.any(axis=-1).sum())


def _last_shown(looked_up: int, changed: Changed) -> int:
    """So many chunks are in the trace: those that were looked up, and those that somebody changed."""
    touched = np.flatnonzero((changed.what != "").any(axis=-1))
    return max(looked_up, int(touched[-1]) + 1 if len(touched) else 0)


def _tokens(
    ids: list[int],
    texts: list[str],
    pad: int,
    on: Scored,
    off_logits: Tensor,
    off_log_probs: Tensor,
    tokenizer: Tokenizer,
) -> list[dict[str, Any]]:
    lp_on, lp_off = on.log_probs.tolist(), off_log_probs.tolist()
    best_on = _alternatives(on.output.logits[0], tokenizer)
    best_off = _alternatives(off_logits[0], tokenizer)
    strength = on.output.write_strength
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


@torch.inference_mode()
def likeliest(model: Retro, ids: Sequence[int], neighbours: Neighbours | None, count: int = 50) -> list[int]:
    """The likeliest tokens after `ids`, likeliest first.

    neighbours  of the text's complete chunks and perhaps of later ones, leading axis (l,); None is Retro[Off]
    """
    complete = num_chunks(len(ids), model.config.chunk_size)
    given = None if neighbours is None or not complete else neighbours.chunks(0, complete)
    logits = read(model, ids, given).output.logits[0, -1].float()
    return logits.topk(min(count, logits.shape[-1])).indices.tolist()


def _shown(tokenizer: Tokenizer, token: int) -> str:
    return "(end of document)" if token == tokenizer.end_id else tokenizer.decode([token])


def _chunk(
    u: int,
    ids: list[int],
    changed: Changed,
    datastore: Datastore,
    tokenizer: Tokenizer,
    on: Scored,
    off_log_probs: Tensor,
    left_out: np.ndarray | None,
    m: int,
) -> dict[str, Any]:
    """left_out  of `leave_one_out`, (l, k, n)"""
    window = read_window(u, len(ids), m)
    read_ids = ids[window.start : window.stop]
    cards = neighbour_cards(changed.shown.chunks(u, u + 1), datastore, tokenizer, m)
    attention = heads = rows = None
    if on.output.attention is not None and cards:
        # Row i of a chunk is position u*m + m-1 + i and predicts token (u+1)*m + i: the read window. The last
        # position of the text predicts a token that is not there. (layer, h, rows, k, r)
        rows = on.output.attention.weights[:, 0, u, :, : len(window)].float().cpu().numpy()
        flat = rearrange(rows, "a h i k r -> a h i (k r)")
        attention, heads = pack_map(flat.mean(axis=(0, 1))), pack_heads(flat)
    for card in cards:
        j = card["rank"] - 1
        card["changed"] = changed.what[u, j] or card["changed"]
        if not window:
            continue
        card["share"] = None if rows is None else float(rows[..., j, :].sum(axis=-1).mean())
        if card["changed"] == "muted":
            continue
        tokens = changed.shown.tokens[u, j]
        runs = common_runs(read_ids, tokens, changed.shown.pad_id)
        card |= describe_copies(runs, len(window), len(tokens), m)
        card["influence"] = None if left_out is None else _influence(left_out[u, j], window)
    gain = (on.log_probs - off_log_probs)[window.start : window.stop]
    return {
        "index": u,
        "ask": [u * m, (u + 1) * m],
        "read": [window.start, window.stop],
        "query": tokenizer.decode(ids[u * m : (u + 1) * m]),
        "gain": float(gain.mean()) if window else None,
        "overlap": float(overlap(np.array(read_ids), changed.neighbours.tokens[u], changed.neighbours.pad_id))
        if window
        else None,
        "seconds": None,
        "neighbours": cards,
        "attention": attention,
        "attention_heads": heads,
    }


def _influence(difference: np.ndarray, window: range) -> dict[str, Any]:
    """difference (n,) of one neighbour, see `leave_one_out` -> the field `influence`"""
    own, later = difference[window.start : window.stop], difference[window.stop :]
    return {
        "own": float(own.mean()),
        "downstream": float(later.mean()) if len(later) else None,
        "tokens": own.tolist(),
    }
