"""A result of `measure` as something to read: Markdown with figures, and one HTML file.

    write_report(result, folder)     report.md, figures/*.svg, report.html
    write_comparison(results, folder)  two results or more side by side

What is not in a result is not in its report.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from indexing import paths
from indexing.errors import InputError
from indexing.files import write_bytes
from retro_core.evaluation import figures
from retro_core.evaluation.cells import LABELS, difference, interval, number, percent, share_words
from retro_core.evaluation.figures import Point
from retro_core.evaluation.layout import (
    Command,
    Folded,
    Heading,
    Items,
    Paragraph,
    Part,
    Picture,
    Table,
    pictures,
    to_html,
    to_markdown,
)
from retro_core.evaluation.probe_report import probe_parts
from retro_core.evaluation.result import HTML_FILE, RESULT_FILE
from retro_core.evaluation.verdicts import in_short

MARKDOWN_FILE, FIGURES_DIR = "report.md", "figures"


def write_report(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write report.md, its figures and report.html; the files, the HTML last. The same result gives the same
    bytes."""
    return _write(report(result), _title(result), folder)


def write_comparison(results: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """The same, of several results side by side."""
    return _write(comparison(results), "Models side by side", folder)


def _write(parts: Sequence[Part], title: str, folder: Path) -> list[Path]:
    drawn = {folder / FIGURES_DIR / f"{picture.name}.svg": picture.svg for picture in pictures(parts)}
    files = {
        **drawn,
        folder / MARKDOWN_FILE: to_markdown(parts, FIGURES_DIR),
        folder / HTML_FILE: to_html(parts, title),
    }
    for path, text in files.items():
        write_bytes(path, text.encode("utf-8", errors="replace"))
    return list(files)


def _title(result: Mapping[str, Any]) -> str:
    return f"Does retrieval help {result['model'].get('name') or 'this model'}?"


def report(result: Mapping[str, Any]) -> list[Part]:
    probes: Mapping[str, Any] = result["probes"]
    parts: list[Part] = [Heading(1, _title(result))]
    parts += [Paragraph(sentence, strong=not number) for number, sentence in enumerate(in_short(result))]
    parts += _overview(probes)
    parts += _swap(result.get("swap"))
    parts += _questions(result.get("questions") or {})
    for stem, (name, probe) in zip(_stems(list(probes)), probes.items(), strict=True):
        parts += probe_parts(stem, name, probe)
    parts += _how(result)
    return parts


def _overview(probes: Mapping[str, Any]) -> list[Part]:
    measured = {name: probe for name, probe in probes.items() if difference(probe, "on")}
    if not measured:
        return []
    rows = []
    for name, probe in measured.items():
        on, off, random = (probe["readings"].get(reading) for reading in ("on", "off", "random"))
        change, strange = difference(probe, "on"), difference(probe, "random")
        rows.append(
            [
                name,
                f"{probe['documents']:,}",
                f"{probe['tokens']:,}",
                number(on["perplexity"]),
                number(off["perplexity"]),
                f"{change['ratio']:.3f}{interval(change['ratio_ci95'], '{:.3f}')}",
                number(on["bpb"]),
                number(off["bpb"]),
                f"{strange['ratio']:.3f}" if random and strange else "–",
                percent(probe.get("worse")),
            ]
        )
    columns = [
        "held-out",
        "documents",
        "tokens",
        "perplexity On",
        "Off",
        "On ÷ Off [95 %]",
        "bits per byte On",
        "Off",
        "random ÷ Off",
        "tokens worse",
    ]
    points = [
        Point(
            name, difference(probe, "on")["ratio"], *(difference(probe, "on")["ratio_ci95"] or (None, None))
        )
        for name, probe in measured.items()
    ]
    picture = Picture(
        "overview",
        figures.intervals("Perplexity On over Off", points, "perplexity with retrieval ÷ without", 1.0),
        "Perplexity with retrieval ÷ without, with 95 % intervals by document: left of the line retrieval "
        "helps.",
    )
    return [Heading(2, "In numbers"), Table(columns, rows), picture]


def _swap(swap: Mapping[str, Any] | None) -> list[Part]:
    if not swap:
        return []
    readings = swap["readings"]
    names = [row["reading"] for row in readings if row["own"] is not None]
    groups = [f"reads {row['reading']}" if row["own"] is not None else "reads nothing" for row in readings]
    series = {f"{name}'s": [row["says"][name]["value"] for row in readings] for name in names} | {
        "neither": [row["neither"]["value"] for row in readings]
    }
    rows = [
        [
            group,
            *(share_words(row["says"][name]) for name in names),
            share_words(row["neither"]),
            share_words(row["reachable"]),
        ]
        for group, row in zip(groups, readings, strict=True)
    ]
    reachable = swap.get("swaps_reachable")
    parts: list[Part] = [
        Heading(2, "Swap the datastore, and the facts change"),
        Paragraph(
            f"{swap['count']:,} prompts about {swap['countries']:,} subjects. With every datastore its own "
            f"value: {share_words(swap['swaps'])}"
            + (f"; where all values could be read, {share_words(reachable)}" if reachable else "")
            + f". With every datastore its own value is the likeliest: {share_words(swap['prefers'])}."
        ),
        Picture(
            "swap",
            figures.bars("Fact swap", groups, series, "share of the prompts", top=1.0),
            "Whose value the model writes, by what it reads.",
        ),
        Table(["", *(f"writes {name}'s" for name in names), "neither", "stands in what was read"], rows),
    ]
    if swap.get("fields"):
        fields = [[row["field"] or "–", f"{row['count']:,}", f"{row['swaps']:.0%}"] for row in swap["fields"]]
        parts.append(Folded("By field", [Table(["field", "prompts", "swap"], fields)]))
    if swap.get("examples"):
        examples = [
            [row["prompt"], *(row["texts"].get(reading["reading"], "") for reading in readings)]
            for row in swap["examples"]
        ]
        parts.append(Folded("Examples", [Table(["prompt", *groups], examples)]))
    return parts


def _questions(sets: Mapping[str, Any]) -> list[Part]:
    if not sets:
        return []
    parts: list[Part] = [
        Heading(2, "Questions"),
        Paragraph(
            "Exact match and F1 of what the model writes after the question; chosen: the right answer is "
            "likelier than wrong ones; could be read: it stands in a neighbour."
        ),
    ]
    groups, rows = [], []
    series: dict[str, list[float | None]] = {"exact match": [], "F1": [], "chosen": []}
    for name, found in sets.items():
        for row in found["readings"]:
            groups.append(f"{name}: {LABELS[row['reading']]}")
            for label, key in (("exact match", "exact_match"), ("F1", "f1"), ("chosen", "chosen")):
                series[label].append(row[key]["value"] if row[key] else None)
            told = ("exact_match", "f1", "chosen", "recalled", "exact_match_recalled")
            rows.append([groups[-1], f"{found['count']:,}", *(share_words(row[key]) for key in told)])
    columns = ["", "questions", "exact match", "F1", "chosen", "could be read", "exact match of those"]
    parts += [
        Picture(
            "questions",
            figures.bars("Questions", groups, series, "share of the questions", top=1.0),
            "Answers with neighbours and without.",
        ),
        Table(columns, rows),
    ]
    for name, found in sets.items():
        if found.get("examples"):
            readings = [row["reading"] for row in found["readings"]]
            examples = [
                [
                    row["question"],
                    " / ".join(row["answers"][:3]),
                    *(row["texts"].get(r, "") for r in readings),
                ]
                for row in found["examples"]
            ]
            columns = ["question", "answers", *(LABELS[reading] for reading in readings)]
            parts.append(Folded(f"Examples: {name}", [Table(columns, examples)]))
    return parts


def _how(result: Mapping[str, Any]) -> list[Part]:
    settings, model = result.get("settings") or {}, result["model"]
    stride = settings.get("stride")
    facts = [
        f"Model {model.get('name', '')}"
        + (f", {model['parameters']:,} parameters" if model.get("parameters") else "")
        + (f", fingerprint {model['fingerprint'][:12]}" if model.get("fingerprint") else "")
        + ".",
        f"k = {settings.get('num_neighbours')} neighbours; windows of {settings.get('max_len')} tokens, each "
        f"moved on by {f'{stride:,} tokens' if stride else 'half of that'}; every token but a document's "
        "first is scored once.",
        "On and Off are one model with the same weights, with its neighbours and without. Intervals hold "
        "95 % of 2,000 resamples of whole documents.",
        "Gain is Off minus On in nats: above 0 retrieval helped. Perplexity is e to the nats per token.",
        "On documents with many near-copies in the datastore a large gain means that copying works; it is "
        "not what to expect of other texts.",
    ]
    parts: list[Part] = [Heading(2, "How this was measured"), Items(facts)]
    if result.get("command"):
        parts.append(Command(result["command"]))
    return [*parts, Paragraph(f"Made {result.get('created', '')}; all numbers are in {RESULT_FILE}.")]


def comparison(results: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Probes that several results have, and what each model gains on them. Raises InputError for fewer than
    two results."""
    if len(results) < 2:
        raise InputError(f"Expected two results or more to compare, got {len(results)}. Name another one.")
    names = [str(result["model"].get("name") or "model") for result in results]
    labels = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
    parts: list[Part] = [
        Heading(1, "Models side by side"),
        Paragraph(
            "Perplexities of models with different tokenizers cannot be compared, bits per byte can; On ÷ "
            "Off says what retrieval is worth to each."
        ),
    ]
    probes = list(dict.fromkeys(name for result in results for name in result["probes"]))
    for stem, name in zip(_stems(probes), probes, strict=True):
        found = [
            (label, result["probes"].get(name) or {}) for label, result in zip(labels, results, strict=True)
        ]
        found = [(label, probe) for label, probe in found if difference(probe, "on")]
        if not found:
            continue
        points = [
            Point(label, difference(p, "on")["ratio"], *(difference(p, "on")["ratio_ci95"] or (None, None)))
            for label, p in found
        ]
        rows = []
        for label, probe in found:
            on, off, change = probe["readings"]["on"], probe["readings"]["off"], difference(probe, "on")
            strange = difference(probe, "random")
            rows.append(
                [
                    label,
                    f"{probe['documents']:,}",
                    number(on["perplexity"]),
                    number(off["perplexity"]),
                    f"{change['ratio']:.3f}{interval(change['ratio_ci95'], '{:.3f}')}",
                    number(on["bpb"]),
                    number(off["bpb"]),
                    f"{strange['ratio']:.3f}" if strange else "–",
                    percent(probe.get("worse")),
                ]
            )
        columns = [
            "model",
            "documents",
            "perplexity On",
            "Off",
            "On ÷ Off [95 %]",
            "bits per byte On",
            "Off",
            "random ÷ Off",
            "tokens worse",
        ]
        drawn = Picture(
            f"{stem}-models",
            figures.intervals(f"{name}: models", points, "perplexity with retrieval ÷ without", 1.0),
            "Perplexity with retrieval ÷ without, with 95 % intervals by document.",
        )
        parts += [Heading(2, name), drawn, Table(columns, rows)]
        if len({(probe["documents"], probe["tokens"]) for _, probe in found}) > 1:
            parts.append(Paragraph("Not all of these were measured on the same documents and tokens."))
    swaps = [
        (label, result["swap"]) for label, result in zip(labels, results, strict=True) if result.get("swap")
    ]
    if swaps:
        rows = [
            [label, f"{swap['count']:,}", share_words(swap["swaps"]), share_words(swap["prefers"])]
            for label, swap in swaps
        ]
        parts += [Heading(2, "Fact swap"), Table(["model", "prompts", "swaps", "prefers"], rows)]
    settings = [result.get("settings") for result in results]
    if any(one != settings[0] for one in settings):
        parts.append(Paragraph("These results were made with different settings."))
    return parts


def _stems(names: Sequence[str]) -> list[str]:
    """How the names of each probe's figures begin: no two alike, in letters that every system takes."""
    stems = [re.sub(r"[^a-z0-9-]+", "-", paths.slug(name)).strip("-") or "probe" for name in names]
    return [stem if stems.index(stem) == place else f"{stem}-{place + 1}" for place, stem in enumerate(stems)]
