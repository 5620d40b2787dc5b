"""One text under several readings, as the value that Compare draws.

{"id", "title", "busy", "headline", "beginning", "notes": [text], "settings": [{
    "name", "group", "bpb", "ci95", "perplexity", "perplexity_ci95", "less": {"value", "ci95"} | null,
    "nats": [number], "read": [[key of a neighbour]]}],
 "groups": [{"tokens": [text], "windows": [number], "by": name}],
 "neighbours": {key: {"title", "text", "source"}}}

Settings of one group have the same tokens, so that these can be compared one by one; `less` is in bits per
byte, against the first setting of the group. `read` has a list for each window of the text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from indexing.neighbours import NO_CHUNK, PASTED

if TYPE_CHECKING:
    from retro_core.comparison import ScoredText

_SHOWN = 600  # characters of a neighbour


def view(
    scored: Sequence["ScoredText"],
    sources: Sequence[Any],
    *,
    run_id: str,
    busy: bool,
    given: str = "",
    title: str = "",
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """sources: where each setting's neighbours come from, for their titles and texts; None for nowhere
    given: all of the text, the beginning included"""
    from retro_core.comparison import FEWEST_WINDOWS, bits_per_byte, difference, perplexity

    groups: list[ScoredText] = []
    settings, neighbours = [], {}
    for one, source in zip(scored, sources, strict=False):
        group = next((i for i, first in enumerate(groups) if _same_tokens(first, one)), len(groups))
        if group == len(groups):
            groups.append(one)
        bpb, per_token = bits_per_byte(one), perplexity(one)
        less = difference(one, groups[group]) if one is not groups[group] else None
        settings.append(
            {
                "name": one.setting.name,
                "group": group,
                "bpb": bpb.value,
                "ci95": bpb.ci95,
                "perplexity": per_token.value,
                "perplexity_ci95": per_token.ci95,
                "less": less and {"value": less.value, "ci95": less.ci95},
                "nats": [round(float(nats), 4) for nats in one.nats],
                "read": _read(one, source, neighbours),
            }
        )
    said = [*notes]
    if groups and not busy:
        windows = len(set(groups[0].windows.tolist()))
        size = groups[0].setting.loaded.config.chunk_size
        said.insert(0, _about_intervals(windows, size, FEWEST_WINDOWS))
        if len(groups) > 1:
            said.append(
                "The models cut the text into other tokens or chunks: perplexities of a token, and single "
                "tokens, cannot be compared between them. Bits per byte can."
            )
    shown = [_group(first) for first in groups]
    return {
        "id": run_id,
        "title": title,
        "busy": busy,
        "headline": "" if busy else headline(settings),
        "beginning": given.removesuffix("".join(shown[0]["tokens"])) if shown else "",
        "notes": said,
        "settings": settings,
        "groups": shown,
        "neighbours": neighbours,
    }


def headline(settings: Sequence[dict[str, Any]]) -> str:
    """Which of the settings expected the text best, against the first one."""
    if len(settings) < 2:
        return ""
    first, best = settings[0], min(settings, key=lambda one: one["bpb"])
    if best is first:
        return f"Nothing beats “{first['name']}” on this text: {_number(first['bpb'])} bits per byte."
    less = first["bpb"] - best["bpb"]
    interval = best["less"] and best["less"]["ci95"]
    doubt = (
        " The interval of this difference reaches 0: it may be chance."
        if interval and interval[1] >= 0
        else ""
    )
    return (
        f"Read with “{best['name']}”, the model expected this text best: {_number(best['bpb'])} bits per "
        f"byte, {less:.2f} less than with “{first['name']}”.{doubt}"
    )


def _number(bpb: float) -> str:
    """Never "0.00" for what is expected almost surely: nothing is."""
    return f"{bpb:.2f}" if bpb >= 0.1 else f"{bpb:.3f}"


def _same_tokens(one: "ScoredText", other: "ScoredText") -> bool:
    same = one.setting.loaded.tokenizer.fingerprint == other.setting.loaded.tokenizer.fingerprint
    return same and one.windows.tolist() == other.windows.tolist()


def _group(first: "ScoredText") -> dict[str, Any]:
    start = first.windows[0] if len(first.windows) else 0
    return {
        "tokens": first.setting.loaded.tokenizer.token_texts(first.tokens.tolist()),
        "windows": (first.windows - start).tolist(),
        "by": first.setting.loaded.name,
    }


def _about_intervals(windows: int, size: int, fewest: int) -> str:
    if windows < fewest:
        pieces = f"{windows} window{'' if windows == 1 else 's'}"
        return (
            f"No interval is shown: the text has {pieces} of {size} tokens, too few to draw from. It says "
            "nothing about other texts."
        )
    return (
        f"Intervals are 95 %, from drawing the {windows} windows of {size} tokens of this one text again and "
        "again: they say how even the difference is within it, not what it is in other texts."
    )


def _read(one: "ScoredText", source: Any, neighbours: dict[str, dict[str, str]]) -> list[list[str]]:
    """Keys of what each window read; the neighbours themselves go into `neighbours`."""
    found: list[list[str]] = []
    if one.neighbours is None:
        return [[] for _ in one.chunks]
    tokenizer = one.setting.loaded.tokenizer
    for ids, rows in zip(one.neighbours.ids.tolist(), one.neighbours.tokens.tolist(), strict=True):
        keys = []
        for chunk_id, tokens in zip(ids, rows, strict=True):
            if chunk_id == NO_CHUNK:
                continue
            if chunk_id == PASTED or source is None:
                key, about = (
                    "typed",
                    {"title": "typed by hand", "text": tokenizer.decode(tokens), "source": ""},
                )
            else:
                key = f"{source.path.name}/{chunk_id}"
                about = {
                    "title": source.provenance(chunk_id).title,
                    "text": source.text(chunk_id),
                    "source": source.path.name,
                }
            neighbours.setdefault(key, {**about, "text": about["text"][:_SHOWN]})
            keys.append(key)
        found.append(keys)
    return found
