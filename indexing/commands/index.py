"""The command that chooses, builds and shows the index of a datastore."""

import argparse
import dataclasses
import sys

from indexing.commands.declaring import add_json, declare
from indexing.commands.shown import print_json, progress
from indexing.datastore import Datastore
from indexing.errors import InputError
from indexing.index import Advice, Index, IndexSettings, advice_for

_HELP = {spec.name: spec.metadata["help"] for spec in dataclasses.fields(IndexSettings)}


def add(commands) -> None:
    parser = declare(commands, "index", _index, "choose, build and show the index of a datastore")
    parser.add_argument("name", metavar="NAME", help="a datastore")
    parser.add_argument("--factory", metavar="S", help=_HELP["factory"])
    parser.add_argument("--ram", metavar="MB", type=int, dest="ram_mb", help=_HELP["ram_mb"])
    parser.add_argument("--nprobe", metavar="N", type=int, help=_HELP["nprobe"])
    parser.add_argument("--candidates", metavar="N", type=int, help=_HELP["candidates"])
    parser.add_argument("--recall", metavar="SHARE", type=float, help=_HELP["recall"])
    parser.add_argument(
        "--no-deletes", dest="deletes", action="store_const", const=False, help="no document will be deleted"
    )
    parser.add_argument("--use-gpus", action="store_const", const=True, help=_HELP["use_gpus"])
    parser.add_argument("--advise", action="store_true", help="only say what would be built, and why")
    add_json(parser)


def _index(arguments: argparse.Namespace) -> None:
    datastore = Datastore.open(arguments.name)
    given = {name: getattr(arguments, name) for name in _HELP if getattr(arguments, name) is not None}
    settings = dataclasses.replace(datastore.index_settings(), **given)
    if arguments.advise:
        advice = advice_for(settings, *datastore.embeddings.shape)
        if arguments.json:
            print_json(dataclasses.asdict(advice))
        else:
            print(f"{advice.factory}. {advice.reason}")
            print(f"  expected: {_expected(advice)}")
        return
    if not datastore.keeps_index and given:
        raise InputError(
            f"{datastore.name!r} is never changed, so no index can be kept for it. Make a copy first: "
            f"python -m indexing copy {datastore.name} NEW-NAME"
        )
    _show(datastore, make_searchable(datastore, settings if given else None), arguments.json)


def index_after(change: str, name: str) -> None:
    """After a build or append: make the index that many chunks want, so that the first who searches need not
    wait for it. Stopping leaves the datastore whole, and says so."""
    try:
        make_searchable(Datastore.open(name))
    except KeyboardInterrupt:
        print(f"{change}; its index is not made, the first search will make it", file=sys.stderr)
        raise SystemExit(130) from None


def make_searchable(datastore: Datastore, settings: IndexSettings | None = None) -> Index:
    """Build the index that many chunks want, with progress; of few nothing is built."""
    events = datastore.build_index(settings)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        progress(event.message or event.stage, event.done, event.total)


def _show(datastore: Datastore, index: Index, as_json: bool) -> None:
    about, advice = index.about, index.advice
    if as_json:
        print_json(
            {
                "rows": len(index),
                "advice": dataclasses.asdict(advice),
                "measured": about and dataclasses.asdict(about),
            }
        )
        return
    print(f"{datastore.name}: {advice.factory} over {len(index):,} chunks. {advice.reason}")
    print(f"  expected: {_expected(advice)}")
    if about is None:
        print("  Nothing is built: every search is exact.")
        return
    print(
        f"  measured: {about.ram_bytes / 1e6:,.1f} MB, built in {about.build_seconds:,.1f} s, recall@10 "
        f"{about.recall_at_10:.3f}, recall@2 {about.recall_at_2:.3f} ({about.queries} sampled chunks asked)"
    )
    print(f"  that is with nprobe {about.nprobe} and {about.candidates} candidates for each neighbour")
    nprobe, candidates = index.settings.nprobe, index.settings.candidates
    if (nprobe or about.nprobe, candidates or about.candidates) != (about.nprobe, about.candidates):
        print(
            f"  searches use nprobe {nprobe or about.nprobe} and {candidates or about.candidates} "
            "candidates, as asked for; what they find was not measured"
        )
    if later := len(index) - about.rows:
        print(f"  {later:,} chunks were added since; they are compared one by one.")


def _expected(advice: Advice) -> str:
    return (
        f"{advice.ram_bytes / 1e6:,.1f} MB, {advice.build_seconds:,.1f} s to build on one core, recall@10 "
        f"{advice.recall:.2f}"
    )
