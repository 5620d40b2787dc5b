"""The map of a datastore: chunks as points, what a text finds as lines, and how far it can be trusted."""

import html
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import policy, services, settings, text
from app.errors import shows_errors
from app.parts import Legend
from app.policy import Action, Visitor, permit
from app.tabs.explore_change_here import expect_datastore, named_values, neighbour_of
from indexing import map as maps
from indexing.datastore import Datastore
from indexing.errors import InputError
from indexing.neighbours import NO_CHUNK

_BY = {"section": "section", "source": "source", "document": "document"}
_MOST_COLOURS = 8
# Okabe and Ito's, which people tell apart who see fewer colours, in an order that begins with the clearest.
_COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#7a5195"]
_OTHERS, _QUERY, _MARKED = "#a1a1aa", "#e11d48", "#fde047"
_HOVER = 160  # characters of a chunk
_LINE = re.compile(r".{1,60}(?:\s|$)|.{1,60}")
_UNSEEN = re.compile(r"[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")
_DASH = re.compile(r"\s[—–-]\s")
_PLACE_IN_FILE = re.compile(r", (?:line|row) [\d,]+$")


@dataclass
class Drawn:
    """shown: what `show` fills; `draw` all but the first"""

    colour: gr.Radio
    method: gr.Radio
    shown: list[gr.components.Component]


@dataclass(frozen=True)
class Marked:
    """A chunk that somebody wants to see among the others. query: what found it · words: what it is"""

    name: str
    chunk: int
    query: str
    words: str


def build() -> Drawn:
    with gr.Row(elem_classes="map-head"):
        colour = gr.Radio(
            choices=[(f"by {words}", name) for name, words in _BY.items()],
            value="document",
            label="Map: coloured",
            elem_id="map-colour",
        )
        method = gr.Radio(
            choices=[(maps.METHODS[name], name) for name in maps.methods()],
            value="pca",
            label="Drawn by",
            visible=len(maps.methods()) > 1,
            elem_id="map-method",
        )
    plot = gr.Plot(show_label=False, label="Map of the datastore", elem_id="map")
    legend = Legend(None, elem_id="map-legend")
    return Drawn(colour, method, [colour, plot, legend])


@shows_errors
def show(
    name: str | None,
    method: str,
    marked: Marked | None = None,
    query: str | None = None,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (how it is coloured, and as `draw`): the map without a query, in colours that tell something
    apart. Where a chunk of it is marked, then with what found that, which takes longer."""
    colour = "document"
    if name:
        datastore = services.snapshot(name, policy.visitor(request))
        drawn = _map(datastore, method)
        counts = {by: len(set(_names(datastore, drawn, by))) for by in _BY}
        # The first that tells some groups apart, and no more than there are colours; else one that tells any.
        colour = next((by for by in _BY if 1 < counts[by] <= _MOST_COLOURS), colour)
        if counts[colour] > _MOST_COLOURS and counts["source"] > 1:
            colour = "source"
    marked = marked if _is_meant(marked, name, query) else None
    yield colour, *_shown(name, "", colour, method, marked, permit(Action.LOOK_UP, request))
    if marked:
        yield colour, *_shown(name, marked.query, colour, method, marked, policy.visitor(request))


@shows_errors
def draw(
    name: str | None,
    query: str | None,
    colour: str,
    method: str,
    marked: Marked | None = None,
    request: gr.Request | None = None,
) -> tuple[Any, Any]:
    """(figure, value of `Legend`). What is marked is so until something else is looked up."""
    marked = marked if _is_meant(marked, name, query) else None
    return _shown(name, query, colour, method, marked, permit(Action.LOOK_UP, request))


def _is_meant(marked: Marked | None, name: str | None, query: str | None) -> bool:
    return marked is not None and (marked.name, marked.query) == (name, query)


def _shown(
    name: str | None, query: str | None, colour: str, method: str, marked: Marked | None, who: Visitor
) -> tuple[Any, Any]:
    if not name:
        return None, {"notes": ["There is no datastore to draw yet."]}
    if colour not in _BY:
        raise InputError(f"Expected colours by {' or '.join(_BY)}, got {colour!r}.")
    if len(query or "") > settings.MAX_PROMPT_CHARACTERS:
        raise InputError(f"Up to {settings.MAX_PROMPT_CHARACTERS:,} characters can be looked up.")
    asking = bool((query or "").strip())
    datastore = services.datastore(name, who=who) if asking else services.snapshot(name, who)
    drawn = _map(datastore, method)
    asked = maps.ask(datastore, drawn, query, settings.SEARCH_RESULTS) if asking else None
    groups, items = grouped(datastore, drawn, colour)
    told = legend(drawn, items, asked)
    picture = figure(datastore, drawn, groups, items, asked)
    if marked:
        picture.add_trace(_star(datastore, drawn, marked))
        told["notes"].insert(1, f"★ is {marked.words}.")
    return picture, told


def place_of(asked: Any, request: gr.Request | None = None) -> Marked:
    """Where a neighbour stands; asked: {"trace", "chunk", "rank"}, or anything. Raises InputError, and
    MismatchError where its datastore is not here, or holds something else there."""
    given, who = named_values(asked), permit(Action.LOOK_UP, request)
    trace, card, _ = neighbour_of(given, who)
    chunk = trace.data["chunks"][given["chunk"]]
    origin = " ".join((card["title"] or card["document_id"]).split())
    words = f"neighbour #{card['rank']} of chunk {chunk['index'] + 1} of the text in Explore: {origin[:80]}"
    return Marked(expect_datastore(trace, who), card["chunk_id"], chunk["query"], words)


_drawing = threading.Lock()
_drawn: dict[tuple[str, str, str], maps.Map] = {}


def _map(datastore: Datastore, method: str) -> maps.Map:
    """Drawn once for each version of a datastore; a few are kept."""
    key = str(datastore.path), datastore.identity, method
    with _drawing:  # several events ask for the same one at once
        if key not in _drawn:
            made = maps.draw(datastore, method)
            while len(_drawn) >= settings.MAPS_KEPT:
                _drawn.pop(next(iter(_drawn)), None)
            _drawn[key] = made
        return _drawn[key]


def grouped(datastore: Datastore, drawn: maps.Map, by: str) -> tuple[list[int], list[dict[str, Any]]]:
    """(of each point, which of the items it belongs to; the items {"colour", "name", "count"}): the largest
    groups have a colour each, the others share one, last."""
    names = _names(datastore, drawn, by)
    largest = [name for name, _ in Counter(names).most_common(_MOST_COLOURS)]
    if len(set(names)) > len(largest):
        largest = largest[: _MOST_COLOURS - 1]
    place = {name: number for number, name in enumerate(largest)}
    groups = [place.get(name, len(largest)) for name in names]
    items = [
        {"colour": _COLOURS[number], "name": name, "count": groups.count(number)}
        for number, name in enumerate(largest)
    ]
    if rest := groups.count(len(largest)):
        others = len(set(names)) - len(largest)
        items.append({"colour": _OTHERS, "name": f"{others:,} other {_BY[by]}s", "count": rest})
    return groups, items


def _names(datastore: Datastore, drawn: maps.Map, by: str) -> list[str]:
    """Of each point, the group it belongs to."""
    origins = [datastore.provenance(int(row)) for row in drawn.rows]
    if by == "section":
        return [section_of(origin.title) for origin in origins]
    if by == "source":
        return [group_of(origin.source) or origin.title for origin in origins]
    return [origin.title for origin in origins]


def section_of(title: str) -> str:
    """What a title ends with, after a dash: 'Peru — Geography' -> 'Geography'."""
    return _DASH.split(title)[-1].strip() or title


def group_of(source: str) -> str:
    """The file that a document came from, or the folder of files: 'a/b.csv, line 7' -> 'a/b.csv'."""
    file = _PLACE_IN_FILE.sub("", source)
    return file if file != source or "/" not in file else file.rsplit("/", 1)[0]


def figure(
    datastore: Datastore,
    drawn: maps.Map,
    groups: Sequence[int],
    items: Sequence[dict[str, Any]],
    asked: maps.Asked | None,
) -> Any:
    """A plotly figure without any text of its own but what is shown on hovering, so that it suits light and
    dark pages; the legend is beside it."""
    import plotly.graph_objects as go

    traces = []
    for number, item in reversed(list(enumerate(items))):  # the largest group on top
        mine = [i for i, group in enumerate(groups) if group == number]
        traces.append(
            go.Scatter(
                x=drawn.points[mine, 0],
                y=drawn.points[mine, 1],
                mode="markers",
                marker={
                    "size": 6,
                    "color": item["colour"],
                    "opacity": 0.4 if item["colour"] == _OTHERS else 0.75,
                },
                hovertext=[hover(datastore, int(drawn.rows[i])) for i in mine],
                hoverinfo="text",
            )
        )
    if asked is not None:
        traces += _asked(datastore, asked)
    axis = {"visible": False, "zeroline": False, "fixedrange": False}
    return go.Figure(
        traces,
        {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": False,
            "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
            "height": 360,
            "xaxis": axis,
            "yaxis": axis | {"scaleanchor": "x"},
            "dragmode": "pan",
            "hovermode": "closest",
            "hoverlabel": {"bgcolor": "#27272a", "font": {"color": "#fafafa", "size": 12}, "align": "left"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#8b8b94", "activecolor": "#71717a"},
        },
    )


def _star(datastore: Datastore, drawn: maps.Map, marked: Marked) -> Any:
    import plotly.graph_objects as go

    x, y = maps.points_of(datastore, drawn, [marked.chunk])[0]
    return go.Scatter(
        x=[float(x)],
        y=[float(y)],
        mode="markers",
        marker={"size": 20, "symbol": "star", "color": _MARKED, "line": {"color": "#18181b", "width": 1.5}},
        hovertext=[f"<b>{wrapped(marked.words)}</b><br>{hover(datastore, marked.chunk)}"],
        hoverinfo="text",
    )


def _asked(datastore: Datastore, asked: maps.Asked) -> list[Any]:
    """Lines to the neighbours, the neighbours, the path of the query's chunks and these, from below."""
    import plotly.graph_objects as go

    lines: list[list[float | None]] = [[], []]
    points, said = [], []
    for number, ids in enumerate(asked.ids):
        for rank, chunk in enumerate(ids.tolist()):
            if chunk == NO_CHUNK:
                continue
            for axis in (0, 1):
                lines[axis] += [
                    float(asked.points[number, axis]),
                    float(asked.found[number, rank, axis]),
                    None,
                ]
            points.append(asked.found[number, rank])
            distance = float(asked.distances[number, rank])
            said.append(f"<b>#{rank + 1}, L2 {distance:.2f}</b><br>{hover(datastore, chunk)}")
    quiet = {"hoverinfo": "skip", "mode": "lines"}
    markers = {"size": 9, "color": "rgba(0,0,0,0)", "line": {"color": _QUERY, "width": 2}}
    path = {"color": _QUERY, "width": 2.5, "dash": "dot"}
    pieces = [f"<b>your text, chunk {i + 1}</b><br>{wrapped(piece)}" for i, piece in enumerate(asked.texts)]
    return [
        go.Scatter(x=lines[0], y=lines[1], line={"color": _QUERY, "width": 1}, opacity=0.6, **quiet),
        go.Scatter(
            x=[float(point[0]) for point in points],
            y=[float(point[1]) for point in points],
            mode="markers",
            marker=markers,
            hovertext=said,
            hoverinfo="text",
        ),
        go.Scatter(x=asked.points[:, 0], y=asked.points[:, 1], line=path, **quiet),
        go.Scatter(
            x=asked.points[:, 0],
            y=asked.points[:, 1],
            mode="markers",
            marker={
                "size": 13,
                "symbol": "diamond",
                "color": _QUERY,
                "line": {"color": "#fff", "width": 1.5},
            },
            hovertext=pieces,
            hoverinfo="text",
        ),
    ]


def hover(datastore: Datastore, chunk: int) -> str:
    """What plotly shows of a chunk."""
    origin = datastore.provenance(chunk)
    return f"{wrapped(origin.title)}<br>character {origin.offset:,}<br>{wrapped(datastore.text(chunk))}"


def wrapped(words: str) -> str:
    """A text's beginning in short lines, for plotly, which takes what it shows for HTML: nothing in it is."""
    words = " ".join(_UNSEEN.sub(" ", words).split())
    if len(words) > _HOVER:
        words = words[: _HOVER - 1] + "…"
    return "<br>".join(html.escape(line.strip(), quote=False) for line in _LINE.findall(words))


def legend(drawn: maps.Map, items: list[dict[str, Any]], asked: maps.Asked | None) -> dict[str, Any]:
    """The value of `Legend`."""
    notes = []
    count = len(drawn.rows)
    what = "all" if count == drawn.num_chunks else f"{count:,} of {drawn.num_chunks:,}"
    how = maps.METHODS[drawn.method]
    spread = f", which hold {drawn.spread:.0%} of what tells them apart" if drawn.spread is not None else ""
    dims = "the two directions in which they differ most" if drawn.method == "pca" else "two dimensions"
    notes.append(f"{what.capitalize()} chunks, drawn by {how} in {dims}{spread}.")
    if asked is not None:
        pieces = len(asked.texts)
        words = "◆ is your text" if pieces == 1 else f"◆ are your text's {pieces} chunks, in order"
        notes.append(f"{words}; lines lead to the nearest chunks in all dimensions, wherever they are drawn.")
    return {"badge": trust(drawn), "items": items, "notes": notes}


def trust(drawn: maps.Map) -> str:
    """How far what is near on the map is near in truth, in words."""
    if len(drawn.rows) <= maps.NEIGHBOURS + 1:
        return text.MAP_TOO_SMALL
    kept = f"The map keeps {drawn.kept:.0%} of true neighbours"
    if drawn.kept < 0.5:
        return f"{kept}: read distances with care."
    if drawn.kept < 0.8:
        return f"{kept}: groups are real, single distances may not be."
    return f"{kept}: what is near here is near in truth, mostly."
