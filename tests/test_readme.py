"""What the README says is so."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from indexing import cli as indexing_cli
from retro_core import cli as retro_cli

ROOT = Path(__file__).parent.parent
ROOMS = {"indexing": indexing_cli, "retro_core": retro_cli}
PAGES = sorted([ROOT / "README.md", ROOT / "assets" / "README.md", *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
# Of all pages; a command may go on after a backslash at a line's end.
EXAMPLES = [
    block.replace("\\\n", " ")
    for page in PAGES
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
]
COMMANDS = [line for block in EXAMPLES for line in block.splitlines() if line.startswith("python -m ")]


def requirements() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]
    return {requirement.name: requirement for requirement in found}


def test_a_space_starts_from_the_front_matter():
    facts = yaml.safe_load(README.split("---")[1])
    assert facts["sdk"] == "gradio"
    assert requirements()["gradio"].specifier.contains(facts["sdk_version"])
    assert (ROOT / facts["app_file"]).is_file()
    assert isinstance(facts["python_version"], str)  # unquoted, 3.10 would be read as 3.1
    assert len(facts["short_description"]) <= 60
    assert facts["license"] == "apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_every_requirement_is_bounded_and_has_a_reason():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        wanted, _, reason = line.partition("#")
        if wanted.strip():
            assert reason.strip(), f"no reason: {line}"
            operators = {specifier.operator for specifier in Requirement(wanted).specifier}
            assert "==" in operators or {">=", "<"} <= operators, f"not bounded: {line}"


def test_the_two_commands_are_there_and_the_check_runs_them():
    first_lines = [block.splitlines()[0] for block in BLOCKS]
    assert "pip install -r requirements.txt && python app.py" in first_lines
    assert "pip install -r requirements.txt && pytest" in first_lines
    check = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^pip install .*-r requirements\.txt$", check, flags=re.MULTILINE)
    assert re.search(r"^pytest\b", check, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist_with_these_options(command):
    _, _, room, *arguments = shlex.split(command, comments=True)
    if room in ROOMS:
        ROOMS[room]._parser().parse_args(arguments)  # leaves with SystemExit if it does not understand


def test_every_subcommand_is_shown():
    shown = {tuple(shlex.split(command)[2:4]) for command in COMMANDS}
    for room, module in ROOMS.items():
        subcommands = next(action.choices for action in module._parser()._actions if action.choices)
        names_of: dict[int, set[str]] = {}  # a command with other names has one parser
        for name, parser in subcommands.items():
            names_of.setdefault(id(parser), set()).add(name)
        missing = [names for names in names_of.values() if not {(room, name) for name in names} & shown]
        assert not missing, f"on no page: {missing}"


def test_the_map_names_what_is_there():
    described = next(block for block in BLOCKS if block.startswith("app.py "))
    names = {line.split()[0] for line in described.splitlines()}
    assert not [name for name in names if not (ROOT / name).exists()]
    folders = {
        path.name + "/" for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()
    }
    assert folders <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (page.parent / link).exists()]


def test_the_bundled_models_numbers_are_those_that_were_measured():
    measured = json.loads((ROOT / "assets/models/demo/evaluation.json").read_text(encoding="utf-8"))
    said = README.partition("## The bundled model")[2].partition("## Limits")[0]
    numbers = set(re.findall(r"-?\d+(?:\.\d+)?", said.partition("as they came out")[2]))
    numbers -= {"28", "95", "2015", "2025"}
    expected = {f"{100 * measured['swap']['swaps']['value']:.1f}", f"{measured['swap']['count']}"}
    for name in ("factbook", "bible", "wiki"):
        readings = measured["probes"][name]["readings"]
        expected |= {f"{readings[reading]['nats']:.2f}" for reading in ("on", "off")}
    expected |= {f"{end:.2f}" for end in measured["probes"]["factbook"]["differences"]["on-off"]["ci95"]}
    assert numbers == expected
