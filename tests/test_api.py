"""The documented endpoints, asked as a program asks them; what docs/api.md prints is run, and says so."""

import json
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from live_app import live_app

from app import api, policy, settings, text
from retro_core import cli as retro_cli

pytestmark = pytest.mark.page

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PRINTED_ADDRESS = "http://127.0.0.1:7860"
ENDPOINTS = {"/retrieve", "/generate", "/score", "/explain", "/datastores", "/runs"}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def address(server):
    return server.address


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_the_documented_endpoints_are_listed_with_what_each_takes_and_no_other_is(client):
    listed = client.view_api(all_endpoints=True, print_info=False, return_format="dict")
    assert listed["unnamed_endpoints"] == {}
    assert set(listed["named_endpoints"]) == ENDPOINTS
    assert set(re.findall(r"^\| `(/\w+)` \|", DOCS, flags=re.MULTILINE)) == ENDPOINTS
    for name, endpoint in listed["named_endpoints"].items():
        assert len(endpoint["description"]) > 20, name
        for parameter in endpoint["parameters"]:
            assert parameter["python_type"]["type"] != "Any", (name, parameter)
            assert parameter["parameter_has_default"] or parameter["parameter_name"] in ("text", "prompt")


def test_the_retrievers_are_those_of_the_page():
    assert tuple(text.LOOKED_INTO) == api.RETRIEVERS


def test_what_the_page_of_the_documentation_prints_comes_out(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them writes a file
    names: dict = {}
    for code, _, printed in re.findall(
        r"^```python\n(.*?)^```\n(\n```text\n(.*?)^```)?", DOCS, flags=re.DOTALL | re.MULTILINE
    ):
        told = StringIO()
        with redirect_stdout(told):
            exec(compile(code.replace(PRINTED_ADDRESS, address), "docs/api.md", "exec"), names)
        assert not printed or told.getvalue().rstrip("\n") == printed.rstrip("\n")
    assert json.loads(Path("ghana.retro.json").read_text())["format"] == "retro-trace"
    best = names["tokens"].sort_values("gain", ascending=False).head(10)
    assert best.gain.min() > 1


def test_the_commands_of_the_documentation_do_something(address, capsys):
    on_the_command_line, without_a_client, _ = blocks("bash")
    assert retro_cli.main(shlex.split(on_the_command_line)[3:]) in (0, None)
    assert (
        "Ghana — Geography\nLocation: Western Africa, bordering the Gulf of Guinea" in capsys.readouterr().out
    )
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = without_a_client.replace(PRINTED_ADDRESS, address)
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60).stdout
    assert "event: complete" in answer and '"rank": 1' in answer  # behind heartbeats, where it takes long


FORGED = [
    ("/retrieve", {"text": ""}, "text is empty"),
    ("/retrieve", {"text": "x" * 100_001}, "text has 100,001 characters"),
    ("/retrieve", {"text": ["x"]}, "text"),
    ("/retrieve", {"text": "x", "k": 17}, "from 1 to 16, got 17"),
    ("/retrieve", {"text": "x", "k": True}, "k"),
    ("/retrieve", {"text": "x", "k": 1.5}, "k must be a whole number"),
    ("/retrieve", {"text": "x", "retriever": "dense:7"}, "There are: dense, first-chunk"),
    ("/retrieve", {"text": "x", "retriever": {"a": 1}}, "There is no retriever"),
    ("/retrieve", {"text": "x", "datastore": "../../etc"}, "There is no datastore '../../etc' here"),
    ("/retrieve", {"text": "x", "datastore": "<b>&"}, "There is no datastore '<b>&' here"),
    ("/retrieve", {"text": "x", "datastore": "x" * 10_000}, "xxx… here"),
    ("/generate", {"prompt": " \n"}, "prompt is empty"),
    ("/generate", {"prompt": "word " * 1100}, "up to 1,024 fit"),
    ("/generate", {"prompt": "x", "model": "gpt"}, "There are: demo"),
    ("/generate", {"prompt": "x", "max_new_tokens": 1025}, "max_new_tokens must be from 1 to 1,024"),
    ("/generate", {"prompt": "x", "num_neighbours": -1}, "num_neighbours must be from 1 to 16"),
    ("/generate", {"prompt": "x", "temperature": "hot"}, "temperature"),
    ("/generate", {"prompt": "x", "seed": None}, "seed"),
    ("/score", {"text": "x", "num_neighbours": [2]}, "num"),
    ("/score", {"text": "x", "retriever": "offline"}, "random, off"),
    ("/explain", {"text": "x", "heads": "yes"}, "heads"),
]


@pytest.mark.parametrize(("endpoint", "values", "expected"), FORGED)
def test_a_value_that_cannot_be_is_refused_in_a_sentence(client, endpoint, values, expected):
    with pytest.raises(AppError) as refused:
        client.predict(**values, api_name=endpoint)
    said = str(refused.value)
    assert expected in said and said.endswith(".") and len(said) < 300
    assert "Traceback" not in said and str(ROOT) not in said


def test_reading_nothing_is_the_model_without_retrieval(client):
    scores = client.predict("The Volta flows south. " * 30, retriever="off", api_name="/score")
    assert scores["on"] == scores["off"] and scores["chunks"] == []
    written = client.predict("Ghana", retriever="off", max_new_tokens=4, api_name="/generate")
    assert len(written["tokens"]) == 4 and written["chunks"] == [] and written["reason"] == "length"


def test_a_trace_has_the_weights_of_single_heads_only_where_they_are_asked_for(client):
    asked = {"text": "The Volta flows south. " * 30, "retriever": "bm25", "api_name": "/explain"}
    assert "attention_heads" not in client.predict(**asked)["chunks"][0]
    assert client.predict(**asked, heads=True)["chunks"][0]["attention_heads"]["data"]


def test_a_public_page_writes_shorter_texts_and_shows_nobody_what_is_others(monkeypatch, tmp_path):
    monkeypatch.setenv("RETRO_MODE", "public")
    policy.forget_counts()
    with pytest.raises(Exception, match="Up to 256 tokens are written for one text here, got 257"):
        list(api.generate("Ghana", max_new_tokens=257))
    shutil.copytree(ROOT / "assets" / "datastores" / "factbook-2015", _store("mine.v-0123456789abcdef"))
    assert "mine" not in str(api.datastores())
    with pytest.raises(Exception, match="There is no datastore 'mine' here"):
        api.retrieve("Ghana", datastore="mine.v-0123456789abcdef")
    monkeypatch.setenv("RETRO_MODE", "local")
    assert "mine" in str(api.datastores())


def _store(name: str) -> Path:
    from indexing import paths

    return paths.datastores_dir() / name


def test_tools_are_served_only_where_they_are_asked_for_and_can_be(monkeypatch, caplog):
    monkeypatch.delenv("RETRO_MCP", raising=False)
    assert settings.serves_mcp() is False
    monkeypatch.setenv("RETRO_MCP", "1")
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: None)
    assert settings.serves_mcp() is False
    assert 'pip install "gradio[mcp]"' in caplog.text
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: object())
    assert settings.serves_mcp() is True


def test_an_agent_finds_the_same_endpoints_as_tools(tmp_path):
    pytest.importorskip("mcp", reason='needs pip install "gradio[mcp]"')
    import asyncio

    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    where = json.loads(blocks("json")[0])["mcpServers"]["retro"]["url"]

    async def ask(url: str):
        async with streamable_http_client(url) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = (await session.list_tools()).tools
            found = await session.call_tool("retrieve", {"text": "the Volta river", "retriever": "bm25"})
            refused = await session.call_tool("retrieve", {"text": ""})
        return tools, found, refused

    # In a thread of its own: a browser of other tests keeps a loop running in this one.
    with live_app(tmp_path, RETRO_MCP="1") as app, ThreadPoolExecutor() as pool:
        asked = pool.submit(asyncio.run, ask(where.replace(PRINTED_ADDRESS, app.address)))
        tools, found, refused = asked.result()
    assert {"/" + tool.name for tool in tools} == ENDPOINTS
    assert all(tool.description for tool in tools)
    assert not found.isError and "Volta" in found.content[0].text
    assert refused.isError and refused.content[0].text == "text is empty. Give a few words."
