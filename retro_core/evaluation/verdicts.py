"""What the numbers of a result say, in sentences. Words like "helps" and "mostly copying" follow from them by
the thresholds below, which are in no other place."""

from collections.abc import Mapping
from typing import Any

from retro_core.evaluation.cells import difference, interval, listed, share_words

# A perplexity ratio On / Off from which on the gain is too small to speak of, even where it is sure.
HARDLY = 0.98
# Neighbours drawn at random may change the perplexity by this share before they count as a harm.
HARMLESS = 0.01
# What is left of the gain, in bits per byte, over the chunks that share at most this much with a neighbour …
NO_LEAKAGE = 0.125
# … below which shares of the whole gain it is called mostly, or partly, copying.
MOSTLY_COPYING, PARTLY_COPYING = 0.25, 0.75
# Fewer chunks or documents than these are too few to say anything about.
FEW_CHUNKS, FEW_DOCUMENTS = 50, 8


def in_short(result: Mapping[str, Any]) -> list[str]:
    """What the numbers say, in a few sentences; the first answers the question."""
    measured = {name: probe for name, probe in result["probes"].items() if difference(probe, "on")}
    verdicts = {name: helps(probe) for name, probe in measured.items()}
    few = [name for name, probe in measured.items() if probe["documents"] < FEW_DOCUMENTS]
    sentences = []
    if measured:
        groups = [
            ("helps", "Retrieval helps on {}."),
            ("hardly", "It is sure but small on {}."),
            ("unclear", "On {} no difference can be told from chance."),
            ("hurts", "It hurts on {}."),
        ]
        said = []
        for verdict, form in groups:
            mine = [name for name, found in verdicts.items() if found == verdict]
            if mine:
                form = form.replace("It ", "Retrieval ") if not said else form
                said.append(
                    form.format(listed([f"{name} ({_ratio_words(measured[name])})" for name in mine]))
                )
        sentences.append(" ".join(said))
    if few:
        sentences.append(
            f"Fewer than {FEW_DOCUMENTS} documents are a sketch and not a measurement: {listed(few)}."
        )
    copied = {
        name: copying(probe) for name, probe in measured.items() if verdicts[name] in ("helps", "hardly")
    }
    said = []
    for verdict, form in (
        (
            "mostly",
            "On {} most of the gain is copying: little is left of it where chunks share no more than "
            "an eighth of their tokens with a neighbour.",
        ),
        ("partly", "On {} part of the gain is copying."),
        ("little", "On {} the gain is there also where a chunk shares little with its neighbours."),
    ):
        mine = [name for name, found in copied.items() if found == verdict]
        if mine:
            said.append(form.format(listed(mine)))
    sentences += [" ".join(said)] if said else []
    harm = {name: difference(probe, "random") for name, probe in measured.items()}
    harm = {name: found for name, found in harm.items() if found}
    if harm:
        sure = {name: found["ratio"] - 1 for name, found in harm.items() if _is_sure(found)}
        bad = [f"{name} ({share:+.1%})" for name, share in sure.items() if share > HARMLESS]
        good = [f"{name} ({-share:.1%})" for name, share in sure.items() if share < -HARMLESS]
        said = [f"Irrelevant neighbours make the perplexity worse on {listed(bad)}."] if bad else []
        if good:
            said.append(
                f"Even irrelevant neighbours help on {listed(good)}: part of the gain is not what they say."
            )
        sentences.append(" ".join(said) or "Irrelevant neighbours do no harm that can be told.")
    swap = result.get("swap")
    if swap:
        sentences.append(
            f"With another datastore the facts change: in {share_words(swap['swaps'])} of {swap['count']:,} "
            "prompts the model writes, with each datastore, the value that stands in it."
        )
    if sentences:
        return sentences
    if any("sweeps" in probe or "comparators" in probe for probe in result["probes"].values()):
        return ["On and Off were not compared over all documents; what was measured follows."]
    return ["Nothing was measured on held-out documents."]


def helps(probe: Mapping[str, Any]) -> str:
    """In a word: "helps"; "hardly", sure but very little; "unclear", if the interval includes no change;
    "hurts"."""
    found = difference(probe, "on")
    if not _is_sure(found):
        return "unclear"
    if found["nats"] > 0:
        return "hurts"
    return "helps" if found["ratio"] <= HARDLY else "hardly"


def copying(probe: Mapping[str, Any]) -> str | None:
    """How much of the gain is: "mostly", "partly" or "little", by what is left of it where nothing leaks;
    None if that is not known."""
    rows = [row for row in probe.get("leakage") or [] if None not in (row["bpb"]["on"], row["bpb"]["off"])]
    strict = [row for row in rows if row["alpha"] <= NO_LEAKAGE and row["chunks"] >= FEW_CHUNKS]
    if not rows or not strict:
        return None
    gains = [row["bpb"]["off"] - row["bpb"]["on"] for row in (strict[-1], rows[-1])]
    if gains[1] <= 0:
        return None
    left = gains[0] / gains[1]
    return "mostly" if left < MOSTLY_COPYING else "partly" if left < PARTLY_COPYING else "little"


def _is_sure(difference: Mapping[str, Any]) -> bool:
    """Whether its interval is on one side of no difference."""
    low, high = difference["ci95"] or (0.0, 0.0)
    return not low <= 0 <= high


def _ratio_words(probe: Mapping[str, Any]) -> str:
    found = difference(probe, "on")
    return f"perplexity {found['ratio']:.2f} of that without{interval(found['ratio_ci95'], '{:.2f}')}"
