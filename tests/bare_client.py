"""What anybody can send to the page's server without a browser: every handler, by its number."""

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

API = "/gradio_api"
_HALF = "\\ud800"


@dataclass
class Handler:
    """One of the page's handlers. inputs: its components, as (kind, properties)"""

    number: int
    name: str
    inputs: list[tuple[str, dict[str, Any]]]
    events: list[str]

    def __str__(self) -> str:
        return f"{self.name} (fn_index {self.number})"


@dataclass
class Call:
    handler: Handler
    data: list[Any]
    event_data: Any = None


@dataclass
class Answer:
    """said: everything that came back, as JSON · error: the message of a refusal, None if there was none"""

    call: Call
    said: str = ""
    ok: bool = False
    answered: bool = False
    error: str | None = None
    status: int = 200
    outputs: list[Any] = field(default_factory=list)


class BareClient:
    """A visitor with cookies and a session of its own. It begins with what a page asks when it is loaded."""

    def __init__(self, address: str, timeout: float = 60, cookies: httpx.Cookies | None = None):
        self.http = httpx.Client(base_url=address, timeout=timeout, cookies=cookies, trust_env=False)
        self.http.get("/").raise_for_status()  # cookies
        self.config = self.http.get("/config").raise_for_status().json()
        self.components = {component["id"]: component for component in self.config["components"]}
        self.session = _new_session()
        self.call_all(
            [
                Call(handler, [shown.get("value") for _, shown in handler.inputs])
                for handler in self.handlers()
                if "load" in handler.events
            ]
        )

    @classmethod
    def again(cls, other: "BareClient") -> "BareClient":
        """The same visitor, who has loaded the page anew."""
        return cls(str(other.http.base_url), cookies=other.http.cookies)

    def handlers(self) -> list[Handler]:
        """All that run on the server."""
        return [
            Handler(
                number=found["id"],
                name=found.get("api_name") or "?",
                inputs=[
                    (self.components[i]["type"], self.components[i].get("props") or {})
                    for i in found["inputs"]
                    if i in self.components
                ],
                events=[event for _, event in found["targets"]],
            )
            for found in self.config["dependencies"]
            if found.get("backend_fn")
        ]

    def server_functions(self) -> list[tuple[int, str]]:
        """(component, name) of the functions that components call beside the queue."""
        return [
            (component["id"], name)
            for component in self.config["components"]
            for name in (component.get("props") or {}).get("server_fns") or ()
        ]

    def call_server_function(self, component: int, name: str, data: Any) -> httpx.Response:
        body = {"component_id": component, "fn_name": name, "data": data, "session_hash": self.session}
        return self._post("/component_server/", body)

    def call(self, handler: Handler, data: Sequence[Any], event_data: Any = None) -> Answer:
        return self.call_all([Call(handler, list(data), event_data)])[0]

    def call_all(self, calls: Sequence[Call]) -> list[Answer]:
        """Through the queue, in one session. Twenty at a time leave room for others; half a character, which
        Gradio cannot write back, cuts off what is asked for beside it."""
        answers = [Answer(call) for call in calls]
        cutting = [answer for answer in answers if _HALF in json.dumps(answer.call.data)]
        usual = [answer for answer in answers if not any(answer is other for other in cutting)]
        for begin in range(0, len(usual), 20):
            self._join(usual[begin : begin + 20])
        for answer in cutting:
            self._join([answer])
        return answers

    def _join(self, answers: list[Answer]) -> None:
        waiting: dict[str, Answer] = {}
        for answer in answers:
            response = self._post("/queue/join", self._body(answer.call))
            if response.status_code == 200:
                waiting[response.json()["event_id"]] = answer
            else:
                answer.status, answer.said, answer.answered = response.status_code, response.text, True
                answer.error = _error_of(response)
        with suppress(httpx.RemoteProtocolError):  # the server cut it off: what waits stays without an answer
            for message in self._messages() if waiting else ():
                answer = waiting.get(message.get("event_id"))
                if answer is None:
                    continue
                answer.said += json.dumps(message) + "\n"
                if message["msg"] == "process_completed":
                    output = message.get("output") or {}
                    answer.ok, answer.answered = message["success"], True
                    answer.error = None if answer.ok else output.get("error")
                    answer.outputs = output.get("data") or []
                    del waiting[message["event_id"]]
                    if not waiting:
                        return

    def _messages(self) -> Iterator[dict[str, Any]]:
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def _body(self, call: Call) -> dict[str, Any]:
        return {
            "data": call.data,
            "fn_index": call.handler.number,
            "session_hash": self.session,
            "event_data": call.event_data,
        }

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        # NaN and Infinity as Python's own JSON writes them; httpx would refuse to.
        content = json.dumps(body, ensure_ascii=True).encode()
        return self.http.post(API + path, content=content, headers={"content-type": "application/json"})


def _new_session() -> str:
    return secrets.token_hex(6)


def _error_of(response: httpx.Response) -> str | None:
    try:
        found = response.json()
    except ValueError:
        return response.text
    return str(found.get("error") or found.get("detail")) if isinstance(found, dict) else str(found)
