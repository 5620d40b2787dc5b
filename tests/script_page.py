"""A component of the page alone in a browser: no server, no other component.

`STAGE` does for a script what Gradio's front end does for `js_on_load` of a `gr.HTML`; see `HTML-*.js`,
  `Index-*.js`
and `core-*.js` in gradio/templates/frontend/assets. tests/test_scripts.py says which words there it rests on.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hostile_texts import SEE, SEEN, WATCH

from app import ui

ORIGIN = "http://localhost/retro/"  # a place whose scripts may use the clipboard; nothing listens there
NOTHING: dict[str, Any] = {}

STAGE = """
window.staged = [];
window.stage = ({ template, script, value, functions, id }) => {
  const copy = (one) => (one === undefined ? undefined : JSON.parse(JSON.stringify(one)));
  const given = (one) => ({ value: one ?? "", label: null, visible: true });
    // nothing is an empty text to a script
  const holder = document.createElement("div");
  holder.className = "block";
  if (id) holder.id = id;
  const element = document.createElement("div");
  const around = document.createElement("div");
  around.className = "html-container";
  around.append(element);
  holder.append(around);
  document.querySelector(".main").append(holder);

  let last = given(value);
  const props = new Proxy(copy(last), {
    set(of, name, next) {
      const changed = of[name] !== next;
      of[name] = next;
      if (changed) queueMicrotask(render);
      return true;
    },
  });
  let drawn = null;
  function render() { // a template is a text of JavaScript to Gradio, filled in anew at each change
    const html = Function(...Object.keys(props), "return `" + template + "`;")(...Object.values(props));
    if (drawn !== null && html !== drawn) throw Error("a template that changes is not imitated here");
    if (drawn === null) element.innerHTML = html;
    drawn = html;
  }
  const watched = [], events = [], calls = [];
  const watch = (names, callback) => watched.push({ names: [names].flat(), callback });
  const trigger = (type, data = {}) => events.push(copy([type, data]));
  const server = {};
  for (const name of functions) {
    server[name] = async (...sent) => {
      if (sent.length === 1) sent = sent[0];
      const call = { name, sent: copy(sent), waits: true };
      calls.push(call);
      return copy(await new Promise((answer) => { call.answer = (one) => { call.waits = false; answer(one);
        }; }));
    };
  }
  staged.push({
    events, calls,
    give(next) {
      const now = given(next), changed = [];
      if (JSON.stringify(last) === JSON.stringify(now)) return;
      for (const name in now) {
        if (JSON.stringify(props[name]) !== JSON.stringify(now[name])) changed.push(name);
        props[name] = copy(now[name]);
      }
      last = copy(now);
      if (changed.length) queueMicrotask(() => {
        for (const one of watched) if (one.names.some((name) => changed.includes(name))) {
          try { one.callback(); } catch (error) { console.error("Error in watch callback:", error); }
        }
      });
    },
  });
  render();
  try {
    Function("element", "trigger", "props", "server", "upload", "watch", script)(element, trigger, props,
      server, null, watch);
  } catch (error) { console.error("Error executing js_on_load:", error); }
  return staged.length - 1;
};
"""


# What of Gradio's own style sheet ours rests on.
_GRADIO = """*, *::before, *::after { box-sizing: border-box; }
body { margin: 0; background: var(--body-background-fill); color: var(--body-text-color);
  font-family: var(--font); }"""


@dataclass
class Alone:
    """A component on a blank page."""

    page: Any
    number: int
    component: Any

    def give(self, value: Any) -> None:
        """What the server sends next, as it travels."""
        self.send(self.component.postprocess(value))

    def send(self, value: Any) -> None:
        """The same, whatever it is."""
        self.page.evaluate("([n, value]) => staged[n].give(value)", [self.number, value])

    def events(self) -> list[list[Any]]:
        """[name, data] of what was triggered since the last time."""
        return self.page.evaluate("(n) => staged[n].events.splice(0)", self.number)

    def asked(self, name: str) -> list[Any]:
        """What waits for an answer of that server function, in the order in which it was asked."""
        return self.page.evaluate(
            "([n, name]) => staged[n].calls.filter((one) => one.waits && one.name === name).map((one) => "
            "one.sent)",
            [self.number, name],
        )

    def answer(self, name: str, value: Any, which: int = 0) -> None:
        """Answers one of those."""
        self.page.evaluate(
            "([n, name, value, which]) => staged[n].calls.filter((one) => one.waits && one.name === name)"
            "[which].answer(value)",
            [self.number, name, value, which],
        )

    def silence(self, name: str, which: int = 0) -> None:
        """No answer: the server is gone, or refuses. Gradio warns in the console and hands over nothing."""
        self.page.evaluate(
            "([n, name, which]) => staged[n].calls.filter((one) => one.waits && one.name === name)"
            "[which].answer(undefined)",
            [self.number, name, which],
        )


class Blank:
    """A blank page in the colours of the app, which notes what goes wrong on it."""

    def __init__(self, page: Any):
        self.page = page
        self.wrong: list[str] = []
        self.remote: list[str] = []
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        page.route("**/*", self._serve)
        page.add_init_script(WATCH + STAGE)
        page.goto(ORIGIN)

    def _serve(self, route: Any) -> None:
        if route.request.url.startswith(ORIGIN):
            return route.fulfill(content_type="text/html; charset=utf-8", body=_page())
        self.remote.append(route.request.url)
        route.abort()

    def put(self, component: Any, value: Any = None, elem_id: str | None = None) -> Alone:
        """The component as the app makes it, with a value as it travels to the page; None is its own."""
        given = {
            "template": component.html_template,
            "script": component.js_on_load,
            "functions": component.get_config().get("server_fns") or [],
            "value": component.value if value is None else component.postprocess(value),
            "id": elem_id,
        }
        return Alone(self.page, self.page.evaluate("(given) => stage(given)", given), component)

    def dark(self, on: bool = True) -> None:
        self.page.evaluate("(on) => document.body.classList.toggle('dark', on)", on)

    def check(self) -> None:
        """Nothing was thrown, asked for or taken for more than text."""
        self.page.evaluate("() => new Promise(requestAnimationFrame)")
        assert self.wrong == []
        assert self.remote == []
        assert self.page.evaluate(SEE) == SEEN


def texts(page: Any, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


@functools.cache
def _page() -> str:
    sheets = [path.read_text(encoding="utf-8") for path in ui.launch_options()["css_paths"]]
    colours = re.sub(r"@font-face\s*\{.*?\}", "", ui.theme()._get_theme_css(), flags=re.S)
    style = "\n".join([colours, _GRADIO, *sheets])
    return (
        f'<!doctype html><html lang="en"><head><title>x</title><style>{style}</style></head>'
        '<body><div class="gradio-container"><div class="main"></div></div></body></html>'
    )


@pytest.fixture
def blank(browser):
    context = browser.new_context(
        viewport={"width": 1180, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    stood = Blank(page)
    yield stood
    stood.check()
    context.close()
