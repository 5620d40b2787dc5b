"""The page as strangers share it: a server in public mode, asked over HTTP with cookies, without, with forged
ones, by others' names, too often, from other pages."""

import json
import os
import re
import secrets
import time

import httpx
import pytest
from live_app import live_app

from app import janitor, owners

pytestmark = pytest.mark.page

TEXT = "Salamanders breathe through their skin. They live under wet stones near the brook. " * 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """As a Space starts it, the Hub's proxy being this test."""
    with live_app(
        tmp_path_factory.mktemp("home"),
        GRADIO_TEMP_DIR=None,
        GRADIO_SERVER_NAME="127.0.0.1",
        SPACE_ID="somebody/retro",
        SPACE_HOST="somebody-retro.hf.space",
    ) as app:
        yield app
        assert "A handler failed" not in app.log.read_text()


class Visitor:
    """One browser: its cookie, its address, its session. cookie: False keeps none, a text is sent as it is"""

    addresses = iter(f"81.2.69.{number}" for number in range(1, 250))
    config = None

    def __init__(self, server, cookie=True, address=None):
        self.http = httpx.Client(base_url=server.address, trust_env=False, timeout=60)
        self.http.headers["x-forwarded-for"] = address or next(self.addresses)
        self.http.headers["x-forwarded-proto"] = "https"
        self.session = secrets.token_hex(6)
        first = self.http.get("/config")
        self.given = first.headers.get("set-cookie", "")
        self.http.cookies.clear()  # over http a client keeps back what is marked for https
        if cookie:
            self.cookie = cookie if isinstance(cookie, str) else self.given.split("=", 1)[1].split(";")[0]
            self.http.headers["cookie"] = f"{owners.SECURE_COOKIE}={self.cookie}"
        Visitor.config = Visitor.config or first.json()

    def call(self, name, **given):
        """(what was said at last, its outputs; None if it was refused). given: by elem_id with _ for -, all
        else as the page begins"""
        properties = {part["id"]: part["props"] for part in self.config["components"]}
        for handler in self.config["dependencies"]:
            parts = [properties.get(number, {}) for number in handler["inputs"]]
            names = [(part.get("elem_id") or "").replace("-", "_") for part in parts]
            if re.fullmatch(rf"{name}(_\d)?", handler["api_name"]) and {*given} <= {*names}:
                break
        else:
            pytest.fail(f"no {name} with {[*given]}")
        data = [given.get(name, part.get("value")) for name, part in zip(names, parts, strict=True)]
        body = {"data": data, "fn_index": handler["id"], "session_hash": self.session}
        joined = self.http.post("/gradio_api/queue/join", json=body)
        assert joined.status_code == 200, joined.text
        with self.http.stream("GET", f"/gradio_api/queue/data?session_hash={self.session}") as events:
            for line in events.iter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    output = message["output"]
                    return output.get("error") or "", output.get("data") if message["success"] else None
        pytest.fail(f"{name} did not answer")

    def listed(self):
        return [row[0] for row in self.call("list_rows")[1][0]["data"]]


@pytest.fixture(scope="module")
def owner(server):
    """A visitor who has made a datastore, `my-newts`."""
    visitor = Visitor(server)
    said, outputs = visitor.call("index", pasted=TEXT, corpus_name="my-newts")
    assert outputs, said
    visitor.call("refresh", chosen="factbook")  # as a loaded page does; from then on it may be chosen
    return visitor


@pytest.fixture(scope="module")
def newts(server, owner):
    """What the server calls it."""
    return next(path.name for path in (server.home / "datastores").glob("my-newts*"))


def test_what_a_visitor_makes_is_there_for_them_alone(server, owner, newts):
    assert "my-newts" in owner.listed() and newts != "my-newts"
    _, outputs = owner.call("show", chosen=newts)
    assert "Yours alone" in json.dumps(outputs[0]) and newts not in json.dumps(outputs[0])
    assert "breathe through" in json.dumps(
        owner.call("search", query="salamanders", chosen=newts, retriever="bm25")[1]
    )
    missing = newts[:-1] + ("0" if newts[-1] != "0" else "1")
    for cookie in (True, False, "x" * 32 + "." + "0" * 64, owner.cookie[:-1] + "x"):
        stranger = Visitor(server, cookie=cookie)
        stranger.call("refresh", chosen="factbook")
        assert "my-newts" not in stranger.listed()
        for handler, given in (
            ("show", {}),
            ("search", {"query": "salamanders", "retriever": "bm25"}),
            ("draw", {}),
            ("verify", {}),
            ("pack", {}),
            ("remove", {"remove_name": "my-newts"}),
            ("rename", {"new_name": "mine-now"}),
            ("copy", {"new_name": "mine-now"}),
        ):
            answers = [
                json.dumps(stranger.call(handler, chosen=name, **given)).replace(name, "")
                for name in (newts, missing)
            ]
            assert "my-newts" not in answers[0] or handler == "remove"
            assert "breathe through" not in answers[0], handler
            assert answers[0] == answers[1], handler  # as if there were none
    assert (server.home / "datastores" / newts).is_dir()


def test_the_cookie_is_the_servers_and_kept_from_scripts_and_other_sites(server, owner):
    name, _, rest = owner.given.partition("=")
    assert name == owners.SECURE_COOKIE
    for word in ("HttpOnly", "Secure", "SameSite=None", "Partitioned", "Path=/"):
        assert word in rest.split("; "), word
    headers = {"x-forwarded-proto": "https"}
    for cookie, again in ((owner.cookie, False), (owner.cookie[:-1] + "x", True), ("", True)):
        sent = {**headers, "cookie": f"{owners.SECURE_COOKIE}={cookie}"}
        assert ("set-cookie" in httpx.get(server.address, headers=sent, trust_env=False).headers) is again
    plain = httpx.get(server.address, trust_env=False).headers["set-cookie"]
    assert plain.startswith(f"{owners.COOKIE}=") and "SameSite=Lax" in plain and "HttpOnly" in plain


def test_what_is_not_for_strangers_is_refused_with_reason_and_way_out(server):
    visitor, nobody = Visitor(server), Visitor(server, cookie=False)
    for handler in ("fetch_base", "import_file"):
        said, outputs = visitor.call(handler)
        assert outputs is None and "not possible on this public page" in said
    said, outputs = nobody.call("index", pasted=TEXT, corpus_name="notes")
    assert outputs is None and "cookie" in said and "somebody-retro.hf.space" in said
    said, outputs = visitor.call("index", pasted=TEXT * 800, corpus_name="notes")
    assert outputs is None and "more than 1,000,000 characters" in said


def test_quotas_follow_the_address_that_the_proxy_saw(server):
    visitor = Visitor(server, address="9.9.9.9")
    said = [visitor.call("open_trace")[0] for _ in range(11)]
    assert not any("free here" in one for one in said[:10])
    assert "10 traces a minute are free here; try again in" in said[10] and "recorded" in said[10]
    other_cookie = Visitor(server, address="9.9.9.9")
    pretending = Visitor(server, address="8.8.8.8, 9.9.9.9, 10.0.0.7")
    elsewhere = Visitor(server, address="9.9.9.9, 8.8.8.8")
    assert "free here" in other_cookie.call("open_trace")[0]
    assert "free here" in pretending.call("open_trace")[0]
    assert "free here" not in elsewhere.call("open_trace")[0]


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring/summary", "/gradio_api/deep_link", "/gradio_api/proxy=https://example.org/",
        "/gradio_api/file=https://example.org/x", "/gradio_api/file=http:/example.org", "/pwa_icon/12000",
        "/gradio_api/runs", "/gradio_api/vibe-code", "/gradio_api/dev/reload", "/docs", "/openapi.json",
        "/gradio_api/file=/etc/passwd", "/gradio_api/file={home}/.visitors.key",
        "/gradio_api/file={home}/datastores/{newts}/datastore.json", "/gradio_api/file=app.py",
        "/gradio_api/file={home}/tmp/../.visitors.key", "/gradio_api/file=/proc/self/environ",
    ],
)  # fmt: skip
def test_nothing_is_served_but_the_page(server, newts, path):
    answer = httpx.get(server.address + path.format(home=server.home, newts=newts), trust_env=False)
    assert answer.status_code in (403, 404)


def test_other_pages_large_requests_and_others_sessions_are_turned_away(server, owner):
    visitor = Visitor(server)
    join = "/gradio_api/queue/join"
    (number,) = [one["id"] for one in visitor.config["dependencies"] if one["api_name"] == "list_rows"]
    body = {"data": [], "fn_index": number, "session_hash": "abc"}
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://evil.example", "host": "somebody-retro.hf.space"},
        {"sec-fetch-site": "cross-site"},
    ):
        assert visitor.http.post(join, json=body, headers=headers).status_code == 403, headers
    ours = {"origin": "https://somebody-retro.hf.space", "sec-fetch-site": "same-origin"}
    assert visitor.http.post(join, json=body, headers=ours).status_code == 200
    assert visitor.http.post(join, content=b" " * 3_000_000).status_code == 413
    assert visitor.http.post(join, content=iter([b"{}"])).status_code == 411  # does not say how long it is
    files = {"files": ("a.txt", b"x" * 1_500_000)}
    assert visitor.http.post("/gradio_api/upload", files=files).status_code == 413
    assert visitor.http.post("/gradio_api/process_recording", files=files).status_code == 404
    assert visitor.http.post("/gradio_api/run/list_rows", json={"data": []}).status_code == 404
    owner.listed()
    listen = f"/gradio_api/queue/data?session_hash={owner.session}"
    assert visitor.http.get(listen).status_code == 403
    assert visitor.http.get(f"/gradio_api/heartbeat/{owner.session}").status_code == 403


def test_every_answer_tells_the_browser_what_it_may_do(server):
    for path in ("/", "/config", "/nothing", "/gradio_api/file=/etc/passwd"):
        headers = httpx.get(server.address + path, trust_env=False).headers
        assert headers["x-content-type-options"] == "nosniff"
        content = headers["content-security-policy"]
        assert "default-src 'self'" in content and "object-src 'none'" in content
        assert "frame-ancestors 'self' https://huggingface.co https://*.hf.space" in content


def test_what_nobody_used_is_removed_and_nothing_else(server, owner, newts, monkeypatch):
    home = server.home
    monkeypatch.setenv("RETRO_HOME", str(home))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(home / "tmp"))
    for name in (f".{newts}.vectors.npy.part", ".notes.vectors.npy.part"):
        (home / "datastores" / name).touch()
    (home / "datastores" / "everybodys").mkdir()
    now = time.time()
    for path in [folder := home / "datastores" / newts, *folder.iterdir()]:
        os.utime(path, (now - 29 * 60,) * 2)
    assert owner.call("search", query="salamanders", chosen=newts, retriever="bm25")[1]  # used, so it stays
    assert newts not in janitor.sweep(now + 29 * 60)
    gone = janitor.sweep(now + 32 * 60)
    assert {newts, f".{newts}.vectors.npy.part"} <= {*gone}
    left = {path.name for path in (home / "datastores").iterdir()}
    assert {"everybodys", ".notes.vectors.npy.part"} <= left and newts not in left
    assert "my-newts" not in owner.listed()
    assert (
        "There is no datastore &#x27;my-newts&#x27; here"
        in owner.call("search", query="newts", chosen=newts)[0]
    )
