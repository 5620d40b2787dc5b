"""Fixtures that many tests share. Every test has a RETRO_HOME of its own."""

import pytest
import unhurried_app
from browsing import BROWSER, Pages
from fakes import HashingEmbedder
from live_app import live_app

from indexing.tokenizer import Tokenizer, train_byte_level_bpe

SENTENCES = [
    "The river Nile flows north through eleven countries to the Mediterranean Sea.",
    "Mount Etna, on the east coast of Sicily, is one of the most active volcanoes in the world.",
    "A chunk is a run of consecutive tokens; its neighbours come from other documents.",
    "Honey bees tell each other where flowers are by dancing on the comb.",
    "The treaty was signed in 1648, after five years of negotiation in two cities.",
    "Zürich, São Paulo and Kraków are cities; 東京 is one too.",
]


@pytest.fixture(autouse=True)
def retro_home(tmp_path, monkeypatch):
    """An empty folder in the place of the user's own."""
    home = tmp_path / "retro-home"
    monkeypatch.setenv("RETRO_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE of 400 tokens: encodes anything, trained in milliseconds."""
    return train_byte_level_bpe(SENTENCES * 3, vocab_size=400, name="tiny")


@pytest.fixture
def embedder() -> HashingEmbedder:
    return HashingEmbedder()


@pytest.fixture(scope="session")
def browser():
    """One for all tests; what is opened in it is each test's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    with live_app(tmp_path_factory.mktemp("served")) as app:
        yield app


@pytest.fixture(scope="module")
def server(served):
    """The page, served: one process for all modules, since beginning it costs more than most tests. What a
    module leaves in its RETRO_HOME is removed after it, and none may leave a traceback in the log."""
    begin = len(served.log.read_text(encoding="utf-8", errors="replace"))
    yield served
    served.clear()
    assert served.tracebacks(begin) == []


@pytest.fixture
def slowly(server):
    """Runs take their time during this test."""
    file = server.home / unhurried_app.SLOWLY
    file.touch()
    yield
    file.unlink()


@pytest.fixture
def open_page(server, browser):
    """Opens the page anew."""
    pages = Pages(browser, server.address)
    yield pages.open
    pages.check()
    pages.close()


@pytest.fixture(scope="module")
def _one_page(server, browser):
    pages = Pages(browser, server.address)
    yield pages, pages.open()
    pages.close()


@pytest.fixture
def page(_one_page):
    """One for all tests of a module, since opening it costs seconds: for those that begin by putting
    something of their own on it."""
    pages, page = _one_page
    yield page
    pages.check()
