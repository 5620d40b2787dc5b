"""Who may do what: the table, through the handlers that ask it; who a visitor is; how often is too often."""

import html
import inspect
import types
from contextlib import ExitStack
from pathlib import Path

import gradio as gr
import pytest
from app_calls import message

from app import api, owners, policy, services, settings
from app.line import Line
from app.policy import Action, Mode, Role
from app.tabs import (
    compare,
    corpus_make,
    corpus_map,
    corpus_search,
    corpus_upkeep,
    explore,
    explore_result,
    measure,
    more_models,
    train_runs,
)
from indexing.errors import InputError, RetroError

ROOT = Path(__file__).parent.parent
ACCOUNT = "ada"


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    for name in ("SPACE_ID", "SPACE_AUTHOR_NAME", "OAUTH_CLIENT_ID", "RETRO_PROXY", "RETRO_ALLOW_FETCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETRO_HOME", str(tmp_path))
    policy.forget_counts()
    yield
    policy.forget_counts()


def request(cookie=None, account=None, address="9.9.9.9", headers=None):
    """As Gradio hands it to a handler."""
    info = {"expires_at": 9e9, "userinfo": {"preferred_username": account}}
    scope = {"session": {"oauth_info": info} if account else {}}
    return types.SimpleNamespace(
        cookies={owners.COOKIE: cookie} if cookie else {},
        client=types.SimpleNamespace(host=address),
        headers=headers or {},
        session_hash="abc",
        query_params={},
        request=types.SimpleNamespace(scope=scope),
    )


@pytest.fixture
def as_(monkeypatch):
    """A request of somebody of this role, in this mode."""

    def as_role(mode, role):
        monkeypatch.setenv("RETRO_MODE", mode)
        monkeypatch.setenv("SPACE_ID", "ada/retro")
        monkeypatch.setenv("SPACE_AUTHOR_NAME", ACCOUNT)
        monkeypatch.setattr(settings, "has_oauth", lambda: True)
        names = {Role.ANONYMOUS: None, Role.SIGNED_IN: "bob", Role.OWNER: ACCOUNT}
        return request(owners.new_token(), names[role])

    return as_role


PEOPLE = [
    (Mode.LOCAL, Role.OWNER),
    (Mode.SERVER, Role.OWNER),
    (Mode.PUBLIC, Role.ANONYMOUS),
    (Mode.PUBLIC, Role.SIGNED_IN),
    (Mode.PUBLIC, Role.OWNER),
]


@pytest.mark.parametrize(("mode", "role"), PEOPLE)
@pytest.mark.parametrize("action", Action)
def test_the_table_is_what_is_permitted(action, mode, role, as_):
    asking = as_(mode, role)
    granted = policy.rule(action, mode, role)
    if not granted.allowed:
        with pytest.raises(InputError, match="not possible on this public page") as refused:
            policy.permit(action, asking)
        assert str(refused.value) == policy.refusal(action, policy.visitor(asking))
        return
    assert policy.refusal(action, policy.visitor(asking)) == ""
    who = policy.permit(action, asking)
    assert (who.mode, who.role, who.rule) == (mode, role, granted)
    most = min(filter(None, (granted.a_minute or granted.an_hour, granted.everybody)), default=0)
    for _ in range(most - 1):
        policy.permit(action, asking)
    if most:
        with pytest.raises(InputError, match="are free here; try again in"):
            policy.permit(action, asking)
        policy.permit(action, asking, counts=False)


def handler_of(action):
    """(one that does this, what it needs to come to asking)"""
    return {
        Action.LOOK_UP: (corpus_search.search, {}),
        Action.PREVIEW: (corpus_make.preview_texts, {"samples": ["nowhere"]}),
        Action.GENERATE: (explore.run, {"task": explore.WRITE}),
        Action.SCORE: (explore.run, {"task": explore.READ}),
        Action.COMPARE: (compare.run, {}),
        Action.OPEN_TRACE: (explore_result.open_trace, {}),
        Action.MAKE_DATASTORE: (corpus_make.index, {}),
        Action.CHANGE_DATASTORE: (corpus_upkeep.delete, {}),
        Action.EXPORT_DATASTORE: (corpus_upkeep.pack, {}),
        Action.IMPORT_DATASTORE: (corpus_make.import_file, {}),
        Action.FETCH_MODEL: (more_models.fetch_base, {}),
        Action.TRAIN: (train_runs.resume, {}),
        Action.MANAGE_RUN: (train_runs.delete, {}),
        Action.EVALUATE: (measure.begin, {}),
    }[action]


@pytest.mark.parametrize(("mode", "role"), PEOPLE)
@pytest.mark.parametrize(
    "action", [*{*Action} - {Action.CALL, Action.SIGN_IN, Action.UPLOAD}]
)  # these: the guard
def test_every_handler_asks_the_table_first(action, mode, role, as_):
    handler, given = handler_of(action)
    fitting = {"str": "", "int": 1, "float": 1.0, "bool": False}
    wanted = inspect.signature(inspect.unwrap(handler)).parameters.values()
    for parameter in wanted:
        if parameter.default is parameter.empty and parameter.name not in given:
            kind = getattr(parameter.annotation, "__name__", "")
            given[parameter.name] = fitting.get(kind)
    asking = as_(mode, role)
    granted, who = policy.rule(action, mode, role), policy.visitor(asking)
    said = html.unescape(message(handler, **given, request=asking))
    assert said == policy.refusal(action, who) if not granted.allowed else "not possible" not in said
    if granted.allowed and (granted.a_minute or granted.an_hour):  # it was counted: the last time is refused
        with pytest.raises(InputError, match="free here"):
            for _ in range(granted.a_minute or granted.an_hour):
                policy.permit(action, asking)


def test_the_docs_have_the_table():
    page = (ROOT / "docs" / "space.md").read_text(encoding="utf-8")
    begins, ends = "<!-- the table begins -->\n", "<!-- the table ends -->"
    assert page.partition(begins)[2].partition(ends)[0] == policy.table() + "\n"


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, Mode.LOCAL),
        ({"GRADIO_SERVER_NAME": "0.0.0.0"}, Mode.PUBLIC),
        ({"SPACE_ID": "a/b"}, Mode.PUBLIC),
        ({"SPACE_ID": "a/b", "RETRO_MODE": "server"}, Mode.SERVER),
        ({"GRADIO_SERVER_NAME": "0.0.0.0", "RETRO_MODE": "local"}, Mode.LOCAL),
    ],
)
def test_the_environment_chooses_the_mode(environment, mode, monkeypatch):
    monkeypatch.delenv("RETRO_MODE", raising=False)
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert policy.mode() is mode
    monkeypatch.setenv("RETRO_MODE", "open")
    with pytest.raises(InputError, match="local, server, public"):
        policy.mode()


def test_a_visitor_is_whom_the_servers_own_cookie_names(monkeypatch, tmp_path):
    monkeypatch.setenv("RETRO_MODE", "public")
    cookie = owners.new_token()
    ann, again = policy.visitor(request(cookie)), policy.visitor(request(cookie, address="1.1.1.1"))
    bob = policy.visitor(request(owners.new_token()))
    assert ann.owner == again.owner != bob.owner and ann.keeps
    assert cookie.split(".")[0] not in ann.owner and (tmp_path / owners.KEY_FILE).stat().st_mode & 0o77 == 0
    for forged in (ann.owner, cookie[:-1], cookie[:32] + "." + "0" * 64, "", None, 7, "x" * 97):
        somebody = policy.visitor(request(forged))
        assert not somebody.keeps and somebody.owner != ann.owner
        with pytest.raises(InputError, match="needs this page's cookie"):
            policy.permit(Action.MAKE_DATASTORE, request(forged))
    assert policy.visitor(request(account=ACCOUNT)).role is Role.ANONYMOUS  # off a Space nobody signs in


def test_names_say_whose_it_is_and_are_shown_without(monkeypatch, as_):
    ann, bob = (policy.visitor(as_(Mode.PUBLIC, Role.ANONYMOUS)) for _ in range(2))
    name = ann.names("my-notes")
    assert (
        ann.may_see(name) and ann.may_change(name) and owners.shown(f"Removed {name}.") == "Removed my-notes."
    )
    assert not bob.may_see(name) and not bob.may_change(name)
    assert bob.may_see("factbook") and not bob.may_change("factbook")
    assert policy.visitor(as_(Mode.PUBLIC, Role.OWNER)).may_change("factbook")
    assert policy.visitor(as_(Mode.LOCAL, Role.OWNER)).names("my-notes") == "my-notes"
    with pytest.raises(InputError, match="at most 45"):
        ann.names("n" * 46)


def test_what_was_made_before_signing_in_stays_ones_own(as_):
    asking = as_(Mode.PUBLIC, Role.SIGNED_IN)
    before = policy.visitor(request(asking.cookies[owners.COOKIE]))
    now = policy.visitor(asking)
    assert now.owner != before.owner and now.may_change(before.names("my-notes"))
    assert policy.keep_minutes(now.names("x")) > policy.keep_minutes(before.names("x")) > 0


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("1.2.3.4, 8.8.8.8", "8.8.8.8"),
        ("1.2.3.4, 8.8.8.8, 10.1.2.3", "8.8.8.8"),
        ("2001:4860:4860::8888", "2001:4860:4860::/64"),
        ("8.8.8.8, nonsense", "9.9.9.9"),
        ("", "9.9.9.9"),
    ],
)
def test_the_address_is_the_one_that_a_proxy_wrote_down(forwarded, expected, monkeypatch):
    asking = request(headers={"x-forwarded-for": forwarded})
    assert policy.address(asking) == "9.9.9.9"  # nobody stands before the server
    monkeypatch.setenv("RETRO_PROXY", "1")
    assert policy.address(asking) == expected


def test_all_visitors_together_have_a_limit(monkeypatch):
    monkeypatch.setenv("RETRO_MODE", "public")
    most = policy.rule(Action.EXPORT_DATASTORE, Mode.PUBLIC, Role.ANONYMOUS).everybody
    for number in range(most):
        policy.permit(Action.EXPORT_DATASTORE, request(address=f"9.9.9.{number}"))
    with pytest.raises(InputError, match="for all visitors together"):
        policy.permit(Action.EXPORT_DATASTORE, request(address="8.8.8.8"))


def test_one_address_does_not_fill_the_line(as_):
    waits, most = policy.place_in_line(as_(Mode.PUBLIC, Role.ANONYMOUS))
    assert waits == "9.9.9.9" and most > 0
    assert policy.place_in_line(as_(Mode.LOCAL, Role.OWNER))[1] == 0
    line = Line()
    with ExitStack() as waiting:
        for _ in range(most):
            waiting.enter_context(line.joined(waits, most))
        waiting.enter_context(line.joined("8.8.8.8", most))
        with pytest.raises(InputError, match="in line already"):
            waiting.enter_context(line.joined(waits, most))


@pytest.mark.parametrize(
    ("handler", "given"),
    [
        (corpus_search.search, {"query": "newts", "retriever": "bm25"}),
        (corpus_map.draw, {"colour": "document", "method": "pca"}),
        (corpus_map.show, {"method": "pca"}),
        (corpus_upkeep.verify, {}),
        (corpus_upkeep.pack, {}),
        (corpus_upkeep.copy, {"new_name": "mine"}),
        (corpus_upkeep.compact, {}),
        (corpus_upkeep.mend, {}),
        (corpus_upkeep.add, {"pasted": "newts"}),
        (corpus_upkeep.delete, {"ids": ["1"]}),
        (corpus_upkeep.rename, {"new_name": "mine"}),
        (corpus_upkeep.remove, {"typed": "my-newts"}),
        (explore.choose, {"model_name": "demo"}),
        (api.retrieve, {"text": "newts"}),
        (lambda name, request: list(services.datastore(name, who=policy.visitor(request))), {}),
        (lambda name, request: services.lookup(name, "bm25", who=policy.visitor(request)), {}),
        (lambda name, request: services.lookup(name, "bm25"), {}),
    ],
)
def test_what_is_anothers_is_not_there_for_whoever_asks_a_handler(handler, given, as_, tmp_path):
    """Not even where Gradio's own list of choices does not stand before the handler."""
    asking, stranger = as_(Mode.PUBLIC, Role.ANONYMOUS), as_(Mode.PUBLIC, Role.ANONYMOUS)
    name = policy.visitor(asking).names("my-newts")
    (tmp_path / "datastores" / name).mkdir(parents=True)
    (tmp_path / "datastores" / name / "datastore.json").write_text("damaged")
    missing = name[:-1] + ("0" if name[-1] != "0" else "1")

    def answer(name, request):
        parameters = inspect.signature(inspect.unwrap(handler)).parameters
        called = next(one for one in ("name", "datastore_name", "datastore") if one in parameters)
        filled = {
            one.name: None
            for one in parameters.values()
            if one.default is one.empty and one.name not in (*given, called, "request")
        }
        with pytest.raises((gr.Error, RetroError)) as refused:
            answered = handler(**{**filled, **given, called: name, "request": request})
            list(answered) if inspect.isgenerator(answered) else answered
        return str(getattr(refused.value, "message", refused.value))

    assert answer(name, stranger) == answer(missing, stranger)
    if handler is not api.retrieve:  # which takes what is listed, and nothing damaged is
        assert "There is no datastore" in html.unescape(answer(name, stranger))
    if given and handler is not api.retrieve:
        assert answer(name, asking) != answer(name, stranger)  # the owner is told that it is damaged
