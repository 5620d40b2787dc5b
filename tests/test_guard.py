"""What stands before the page, in front of one that says yes to everything. See also test_space_mode.py."""

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from app import owners, policy
from app.guard import Guard


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Ask the guard something in a mode: the answer."""
    for name in ("SPACE_ID", "RETRO_ALLOWED_HOSTS", "RETRO_PROXY", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETRO_HOME", str(tmp_path))
    policy.forget_counts()

    def ask_(path="/", mode="local", method="GET", **headers):
        monkeypatch.setenv("RETRO_MODE", mode)
        client = TestClient(Guard(PlainTextResponse("yes")), base_url="http://127.0.0.1:7860")
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.request(method, path, headers=headers)

    yield ask_
    policy.forget_counts()


def test_another_name_that_leads_to_ones_own_computer_is_not_answered(ask, monkeypatch):
    assert ask(host="localhost:7860").status_code == ask(host="127.0.0.1").status_code == 200
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""):
        assert ask(host=host).status_code == 400, host
    assert ask(host="retro.example.org", mode="server").status_code == 200
    monkeypatch.setenv("RETRO_ALLOWED_HOSTS", "retro.example.org, retro.local")
    assert ask(host="retro.local", mode="public").status_code == 200
    assert ask(host="evil.example", mode="public").status_code == 400


@pytest.mark.parametrize("mode", ["local", "server", "public"])
def test_another_page_changes_nothing(mode, ask):
    upload = "/gradio_api/upload"
    ours = {"method": "POST", "mode": mode, "content_length": "2"}
    assert ask(upload, **ours).status_code == 200
    assert ask(upload, **ours, origin="http://127.0.0.1:7860").status_code == 200
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:7861",
        "http://127.0.0.1:7860.evil.example",
    ):
        assert ask(upload, **ours, origin=origin).status_code == 403, origin


def test_a_password_is_tried_a_few_times_a_minute(ask):
    answers = [ask("/login", "server", "POST", content_length="0").status_code for _ in range(11)]
    assert answers == [200] * 10 + [429]


def test_only_in_public_is_there_a_cookie(ask):
    assert "set-cookie" not in ask().headers and "set-cookie" not in ask(mode="server").headers
    assert ask(mode="public").headers["set-cookie"].startswith(owners.COOKIE)
    assert "set-cookie" not in ask("/assets/x.js", "public").headers
