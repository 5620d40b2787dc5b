"""Figures of a report as SVG texts: the same bytes for the same numbers, readable on light and on dark paper.

Labels may be anybody's text: they are shown as they are, never read as mathematics or markup.
"""

import io
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# On and what helps, Off and what hurts, then the others; told apart by people who see colours differently,
# and at least 3:1 on white and on the page's dark ground.
ON, OFF, HURT = "#d67918", "#64748b", "#2f6fed"
COLOURS = (ON, OFF, "#0d9488", HURT, "#a855b5", "#8a7a1c")
MARKS = ("o", "s", "^", "D", "v", "P")  # a second way to tell lines apart
INK, FAINT = "#1c2024", "#d5d9de"
_DARK = {INK: "#e4e7eb", FAINT: "#3a4048"}
WIDTH = 5.2  # inches of 72 points: what fits a telephone without becoming small
LONGEST_LABEL = 26  # characters

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "retro",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Point:
    """A value and the ends of its interval, None where nobody resampled it."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


def plain(text: object, longest: int = LONGEST_LABEL) -> str:
    """`text` on one line, without characters that XML cannot hold or that turn the direction of writing."""
    shown = "".join(" " if c.isspace() else c for c in str(text))
    shown = "".join(c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in shown)
    shown = " ".join(shown.split())
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def intervals(title: str, points: Sequence[Point], axis: str, reference: float) -> str:
    """Values one below the other, each with its interval, beside a line at `reference`."""
    with _figure(0.9 + 0.31 * len(points)) as (figure, axes):
        axes.axvline(reference, color=INK, linewidth=1)
        for place, point in enumerate(points):
            low, high = _ends(point)
            sure = not low <= reference <= high
            colour = OFF if not sure else ON if point.value < reference else HURT
            axes.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
            axes.plot([point.value], [place], "o" if sure else "s", color=colour, markersize=6)
        axes.set_yticks(range(len(points)), [plain(point.label) for point in points])
        axes.set_ylim(len(points) - 0.4, -0.6)
        axes.set_xlabel(axis)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.08)
        return _svg(figure, title)


def curves(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]],
    x_axis: str,
    y_axis: str,
    *,
    logarithmic: bool = False,
    counts: Sequence[tuple[float, int]] = (),
    counted: str = "",
    reference: float | None = None,
    ticks: Sequence[float] = (),
) -> str:
    """Lines through (x, y, low, high); below them, where given, bars of how many there are at each x."""
    with _figure(3.6 if counts else 2.9, rows=2 if counts else 1) as (figure, several):
        axes, below = several if counts else (several, None)
        if reference is not None:
            axes.axhline(reference, color=INK, linewidth=1)
        for number, (label, points) in enumerate(lines.items()):
            colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
            xs = [point[0] for point in points]
            shaded = [point for point in points if point[2] is not None and point[3] is not None]
            if len(shaded) > 1:
                axes.fill_between(
                    [p[0] for p in shaded], [p[2] for p in shaded], [p[3] for p in shaded],
                    color=colour, alpha=0.18, linewidth=0,
                )  # fmt: skip
            axes.plot(xs, [point[1] for point in points], mark + "-", color=colour, label=plain(label))
        everything = sorted({point[0] for points in lines.values() for point in points})
        last = below or axes
        if logarithmic and everything and everything[0] > 0:
            axes.set_xscale("log")
            _ticks_at(last, _spread(everything))
        elif ticks:
            last.set_xticks(list(ticks), [_short(tick) for tick in ticks])
        axes.set_ylabel(y_axis)
        if len(lines) > 1:
            axes.legend(loc="best")
        if below is not None:
            narrow = min((b - a for a, b in zip(everything, everything[1:], strict=False)), default=1.0)
            below.bar([x for x, _ in counts], [n for _, n in counts], width=0.7 * narrow, color=OFF)
            below.set_ylabel(counted)
            below.set_ylim(bottom=0)
            below.locator_params(axis="y", nbins=3)
        last.set_xlabel(x_axis)
        return _svg(figure, title)


def binned(
    title: str,
    bins: Sequence[tuple[str, float, float | None, float | None, int]],
    x_axis: str,
    y_axis: str,
    counted: str,
) -> str:
    """(label, mean, low, high, count) of each bin: means with intervals, below them how many."""
    with _figure(3.6, rows=2) as (figure, (axes, below)):
        axes.axhline(0, color=INK, linewidth=1)
        for place, (_, mean, low, high, _) in enumerate(bins):
            colour = ON if mean > 0 else HURT
            if low is not None and high is not None:
                axes.plot([place, place], [low, high], color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot([place], [mean], "o", color=colour)
        axes.set_ylabel(y_axis)
        below.bar(range(len(bins)), [row[4] for row in bins], width=0.7, color=OFF)
        below.set_ylabel(counted)
        below.locator_params(axis="y", nbins=3)
        labels = [row[0] for row in bins]
        many = max(map(len, labels), default=0) * len(labels) > 55
        below.set_xticks(
            range(len(bins)), labels, rotation=40 if many else 0, ha="right" if many else "center"
        )
        below.set_xlabel(x_axis)
        for each in (axes, below):
            each.grid(visible=False, axis="x")
        return _svg(figure, title)


def ranked(title: str, values: Sequence[float], x_axis: str, y_axis: str) -> str:
    """Values from the largest to the smallest, as bars from 0."""
    ordered = sorted(values, reverse=True)
    with _figure(2.6) as (figure, axes):
        axes.axhline(0, color=INK, linewidth=1)
        axes.vlines(
            range(1, len(ordered) + 1), 0, ordered,
            colors=[ON if value > 0 else HURT for value in ordered],
            linewidth=max(0.6, min(12.0, 240 / max(1, len(ordered)))),
        )  # fmt: skip
        axes.set_xlabel(x_axis)
        axes.set_ylabel(y_axis)
        axes.grid(visible=False, axis="x")
        axes.margins(x=0.02)
        return _svg(figure, title)


def bars(
    title: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    axis: str,
    top: float | None = None,
) -> str:
    """For each group a bar of each series, lying down, with its number."""
    height = 0.8 / max(1, len(series))
    with _figure(0.9 + len(groups) * (0.16 + 0.24 * len(series))) as (figure, axes):
        for number, (label, values) in enumerate(series.items()):
            places = [group + (number - (len(series) - 1) / 2) * height for group in range(len(groups))]
            known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
            axes.barh(
                [place for place, _ in known], [value for _, value in known],
                height=height * 0.9, color=COLOURS[number % len(COLOURS)], label=plain(label),
            )  # fmt: skip
            for place, value in known:
                axes.annotate(
                    _short(value), (max(value, 0), place), xytext=(3, 0), textcoords="offset points",
                    va="center", fontsize=8.5,
                )  # fmt: skip
        axes.set_yticks(range(len(groups)), [plain(group) for group in groups])
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.set_xlabel(axis)
        axes.set_xlim(left=0, right=top)
        axes.margins(x=0.14)
        axes.grid(visible=False, axis="y")
        if len(series) > 1:
            figure.legend(loc="outside upper right", ncols=min(3, len(series)))
        return _svg(figure, title)


def _ends(point: Point) -> tuple[float, float]:
    low = point.value if point.low is None else point.low
    return low, point.value if point.high is None else point.high


def _short(value: float) -> str:
    """12,345 · 12.3 · 0.123"""
    if float(value).is_integer() and abs(value) >= 1 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _spread(values: Sequence[float]) -> list[float]:
    """Those of `values`, at least a third apart, that have room for a label on a logarithmic axis."""
    kept: list[float] = []
    for value in values:
        if not kept or value >= 1.32 * kept[-1]:
            kept.append(value)
    return kept


def _ticks_at(axes: "Axes", values: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xticks(list(values), [_short(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())


@contextmanager
def _figure(height: float, rows: int = 1) -> Any:
    """(figure, axes), or with two rows (figure, (axes, a lower one below it)) on one x axis."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")  # it is a browser that draws
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        if rows == 1:
            yield figure, figure.subplots()
        else:
            yield figure, tuple(figure.subplots(rows, 1, sharex=True, height_ratios=(3, 1)))


def _svg(figure: "Figure", title: str) -> str:
    """The drawing alone, with a title for who cannot see it and colours for who reads on dark paper."""
    file = io.BytesIO()
    nothing = {name: None for name in ("Date", "Creator", "Format", "Type")}
    figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Names of groups: nobody refers to them, and several figures share a page.
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)  # hundredths of a point are seen by nobody
    text = "\n".join(line.strip() for line in text.splitlines() if line.strip())
    head, body = text.split(">", 1)
    named = f'<title>{escape(plain(title, 200))}</title>\n<style type="text/css">{_dark_rules()}</style>'
    return f'{head} role="img">\n{named}{body}\n'


def _dark_rules() -> str:
    """Ink and grid have other colours on dark paper; programs without style sheets see the light ones."""
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}}}'.replace("}", " !important}")
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    )
    return f"@media (prefers-color-scheme: dark){{{rules}}}"
