"""Every script of the page has tests of its own, which stand in for Gradio as Gradio is."""

import ast
from pathlib import Path

import gradio

ROOT = Path(__file__).parent.parent
FRONT_END = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"


def test_each_script_is_named_by_the_tests_that_drive_it():
    named = []
    for module in Path(__file__).parent.glob("test_scripts_*.py"):
        before = len(named)
        for statement in ast.parse(module.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "SCRIPTS":
                named += eval(
                    compile(ast.Expression(statement.value), module.name, "eval")
                )  # tuples of names
        assert len(named) > before, f"{module.name} does not say in SCRIPTS which scripts it drives"
    there = sorted(path.relative_to(ROOT / "app").as_posix() for path in (ROOT / "app").rglob("*.js"))
    assert sorted(named) == there


def test_gradio_still_runs_scripts_as_the_stage_does():
    """Words of its front end that `script_page.STAGE` imitates: where one is gone, see what took its
    place."""

    def source(name):
        return "".join(path.read_text(encoding="utf-8") for path in FRONT_END.glob(name))

    html, around, core, client = (
        source(name) for name in ("HTML-*.js", "Index-*.js", "core-*.js", "index-*.js")
    )
    for text, words in (
        (html, "Function(`element`,`trigger`,`props`,`server`,`upload`,`watch`,"),
        (html, "Error executing js_on_load:"),
        (html, "Error in watch callback:"),
        (html, "queueMicrotask(()=>"),  # watchers are told after all that changed is there
        (html, ".onevent?.({type:"),
        (around, ".props.value??``,label:"),  # nothing is an empty text
        (core, "(t.length===1&&(t=t[0]),await n.component_server(e,r,t))"),
        (client, "Could not connect to component server: "),
        (
            client,
            "}catch(e){console.warn(e)}}",
        ),  # what does not answer hands over nothing, and throws nothing
    ):
        assert words in text, words
