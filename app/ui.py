"""The page as a whole: header, tabs, theme, and how it is served."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils import colors, fonts
from starlette.middleware import Middleware

from app import api, lens, parts, policy, services, settings, text
from app.compare import STYLE as COMPARE_STYLE
from app.errors import shows_errors
from app.explore import STYLE as EXPLORE_STYLE
from app.guard import Guard
from app.learn import STYLE as LEARN_STYLE
from app.measure import STYLE as MEASURE_STYLE
from app.parts import StatusLine
from app.policy import Visitor
from app.tabs import (
    compare,
    corpus,
    explore,
    explore_result,
    explore_return,
    learn,
    measure,
    more_models,
    train,
    train_runs,
)
from app.train import STYLE as TRAIN_STYLE
from indexing import paths
from indexing.errors import InputError

_HERE = Path(__file__).parent
_OWN_FOLDERS = (
    paths.datastores_dir,
    paths.models_dir,
    paths.runs_dir,
    paths.bases_dir,
    paths.embedders_dir,
    paths.training_sets_dir,
    paths.measurements_dir,
)
_TO_TOP = "(chosen) => { window.scrollTo({ top: 0 }); return chosen; }"


def build_demo() -> gr.Blocks:
    with gr.Blocks(
        title=text.TITLE, fill_width=True, delete_cache=settings.CACHE_SWEPT, analytics_enabled=False
    ) as demo:
        api.build()
        nowhere = gr.HTML(visible=False)
        with gr.Row(elem_id="header"):
            gr.Markdown(f"# {text.TITLE}\n{text.TAGLINE}", elem_id="wordmark")
            pill = StatusLine(status(paths.DEMO_MODEL, services.default_datastore()), elem_id="pill")
            share = gr.Button("Share", size="sm", min_width=0, elem_id="share")
            if policy.can_sign_in():
                gr.LoginButton("Sign in", size="sm", min_width=0, elem_id="sign-in")
            gr.Button("◐ Theme", size="sm", min_width=0, elem_id="theme")  # see page.js
        with gr.Row(elem_id="notice"):
            lost = StatusLine("", elem_id="lost")
            dismiss = gr.Button("Dismiss", size="sm", min_width=0, elem_id="dismiss")
        remembered, seen = corpus.remember(), explore_result.remember_seen()
        explored, writing = explore_return.remember_settings(), explore_return.remember_writing()
        making = train.remember()
        with gr.Tabs(selected="explore", elem_id="tabs") as tabs:
            with gr.Tab("Explore", id="explore") as explore_tab:
                explorer = explore.build(seen, writing)
            with gr.Tab("Compare", id="compare") as compare_tab:
                comparison = compare.build()
            with gr.Tab("Corpus", id="corpus") as corpus_tab:
                library = corpus.build(demo, remembered)
            with gr.Tab("Train", id="train") as train_tab:
                trained = train.build(demo, train_tab, making)
            with gr.Tab("Measure", id="measure") as measuring:
                measured = measure.build(measuring)
            with gr.Tab("Learn", id="learn") as learning:
                taught = learn.build()
        gr.Markdown(text.PRIVACY + _shared(), elem_id="privacy")
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        dismiss.click(None, outputs=lost, js="() => ''", api_visibility="private")
        read = [explorer.model, explorer.datastore]
        explorer.live.click(
            None, outputs=tabs, js=_to_tab("compare", ".compare-chip"), api_visibility="private"
        )
        explorer.own.click(
            None, outputs=tabs, js=_to_tab("corpus", "#pasted textarea"), api_visibility="private"
        )
        library.use.click(
            use_in_explore, inputs=library.chosen, outputs=[tabs, explorer.datastore], js=_TO_TOP, **quiet
        )
        shown_there = explorer.result.lens.place(
            corpus.on_map, outputs=[tabs, *library.on_map], queue=False, **quiet
        )
        library.follow_to_map(shown_there)
        trained.use.click(
            train_runs.use,
            inputs=[trained.chosen, trained.checkpoint],
            outputs=[tabs, *read, trained.told],
            **quiet,
        )
        explorer.result.follow(
            trained.samples.see(
                train_runs.see_sample,
                outputs=[tabs, explorer.result.lens, explorer.result.progress, explorer.result.shown],
                js=_TO_TOP,
                **quiet,
            )
        )
        for elsewhere in (explore_tab, compare_tab, corpus_tab, measuring, learning):
            elsewhere.select(lambda: gr.Timer(active=False), outputs=trained.tick, queue=False, **quiet)
        result = explorer.result
        result.follow(
            taught.lessons.see(
                learn.see, outputs=[tabs, result.lens, result.progress, result.shown], queue=False, **quiet
            )
        )
        demo.load(None, js=(_HERE / "page.js").read_text(encoding="utf-8"), api_visibility="private")
        choices = [*read, library.chosen, explorer.base]
        demo.load(refresh, inputs=choices, outputs=[pill, *choices], **quiet)
        explore_return.wire(demo, explorer, tabs, explored, writing, lost, share)
        measuring.select(measure.refresh, inputs=measured.choices, outputs=measured.choices, **quiet)
        compare_tab.select(compare.refresh, inputs=comparison.choices, outputs=comparison.choices, **quiet)
        tick = gr.Timer(3)
        for event in (tick.tick, explorer.chose.then):
            event(show_status, inputs=read, outputs=[pill, tick], concurrency_limit=None, **quiet)
    _show_no_progress(demo, nowhere)
    demo.queue(max_size=32, default_concurrency_limit=4, api_open=False)
    return demo


def _show_no_progress(demo: gr.Blocks, nowhere: gr.HTML) -> None:
    """Progress that is hidden is hidden in one place.

    Gradio tells each state of each event (waiting, begun, done) to all components that any event has had for
    its outputs so far. It searches the page's whole tree for each of them, and copies all that is in it: on a
    page of this size half a second of work for a click, and two while the page comes up.
    """
    for event in demo.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [nowhere]


def _to_tab(tab: str, then: str) -> str:
    """A script that leads to a tab and there, once it is drawn, clicks a button or begins to type."""
    return f"""() => {{
      window.scrollTo({{ top: 0 }});
      const arrive = (patience) => {{
        const place = document.querySelector({then!r});
        if (!place || !place.checkVisibility()) return patience && setTimeout(arrive, 50, patience - 1);
        place.focus();
        if (place.matches("button")) place.click();
      }};
      setTimeout(arrive, 50, 100);
      return {{ selected: {tab!r}, __type__: "update" }};
    }}"""


def use_in_explore(name: str | None, request: gr.Request | None = None) -> tuple[Any, Any]:
    """(the tab Explore, its choice of datastore)."""
    choices = services.datastore_choices(policy.visitor(request))
    return gr.Tabs(selected="explore"), gr.Dropdown(choices=choices, value=name)


def refresh(
    model: str,
    read: str | None,
    chosen: str | None,
    base: str | None,
    request: gr.Request | None = None,
) -> tuple[Any, ...]:
    """On every page view: what was made or fetched since the start. The model is made ready meanwhile."""
    services.warm_up()
    who = policy.visitor(request)
    names = services.datastore_choices(who)
    default = services.default_datastore()
    models = _choices(more_models.model_choices(), model, paths.DEMO_MODEL)
    stores = _choices(names, read, default)
    bases = _choices(more_models.base_choices(), base, None)
    now = status(models.get("value", model), stores.get("value", read), who)
    return now, models, stores, _choices(names, chosen, default), bases


def _choices(choices: list[tuple[str, str]], value: str | None, default: str | None) -> dict[str, Any]:
    """An update. What is chosen is not sent back unless it is gone: it may have changed in the meantime."""
    if value in [default, *(name for _, name in choices)]:
        return gr.update(choices=choices)
    return gr.update(choices=choices, value=default)


@shows_errors
def show_status(model: str, datastore: str | None, request: gr.Request | None = None) -> tuple[Any, Any]:
    """(the pill, its timer, which rests once the model is there)."""
    return status(model, datastore, policy.visitor(request)), gr.Timer(
        active=not services.model_is_loaded(model)
    )


def status(model: str, datastore: str | None, who: Visitor | None = None) -> str:
    """What runs here, in one line."""
    info = next((info for info in services.datastores(who) if info.name == datastore), None)
    chunks = f" · {info.name}, {info.num_chunks:,} chunks" if info else " · no datastore yet"
    if not services.model_is_loaded(model):
        return f"model {model} (not loaded yet){chunks}"
    loaded = services.model(model)
    millions = loaded.model.num_parameters() / 1e6
    if info and services.is_read_as_text(info.name, model, who):
        chunks += ", texts retokenised"
    return f"model {loaded.name}, {millions:,.1f} M parameters{chunks} · CPU"


def theme() -> gr.themes.Base:
    """Neutral, so that orange, blue and teal keep their meaning.

    The fonts come with gradio and from this server. Their SemiBold files hold only a few letters, so the
    weights are 400 and 700.
    """
    return gr.themes.Default(
        primary_hue=colors.zinc,
        secondary_hue=colors.teal,
        neutral_hue=colors.zinc,
        radius_size=gr.themes.sizes.radius_md,
        font=[fonts.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[fonts.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    ).set(
        # Gradio's own subdued text has a contrast of 1.9 : 1.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        button_primary_background_fill="*neutral_800",
        button_primary_background_fill_hover="*neutral_700",
        button_primary_background_fill_dark="*neutral_100",
        button_primary_background_fill_hover_dark="*neutral_300",
        button_primary_text_color="white",
        button_primary_text_color_dark="*neutral_900",
        link_text_color="*secondary_700",
        link_text_color_active="*secondary_700",
        link_text_color_hover="*secondary_800",
        link_text_color_visited="*secondary_700",
        block_shadow="none",
        block_shadow_dark="none",
    )


def _shared() -> str:
    most = policy.of_strangers()
    return text.PRIVACY_SHARED.format(kept=policy.in_minutes(most.keep_minutes)) if most else ""


def _people() -> tuple[str, str] | None:
    """Who is let in, where a password is asked for. Raises InputError where one should be and is not set."""
    if policy.mode() is not policy.Mode.SERVER:
        return None
    password = settings.password()
    if not password:
        raise InputError(
            "A server for people who trust each other needs a password: set RETRO_PASSWORD. Without one, "
            "RETRO_MODE=public lets strangers in, who may do less."
        )
    return "retro", password


def launch_options() -> dict[str, Any]:
    """Keyword arguments of `Blocks.launch`. Everything that an environment variable of Gradio's could
    silently open up is said here. Raises what `policy.mode` does."""
    public = policy.mode() is policy.Mode.PUBLIC
    return {
        "server_name": settings.host(),
        "server_port": settings.port(),
        "theme": theme(),
        "head": f"<style>{(_HERE / 'around.css').read_text(encoding='utf-8')}</style>",
        "css_paths": [
            _HERE / "style.css",
            lens.STYLE,
            parts.STYLE,
            COMPARE_STYLE,
            EXPLORE_STYLE,
            TRAIN_STYLE,
            MEASURE_STYLE,
            LEARN_STYLE,
        ],
        "share": False,
        "show_error": False,
        "auth": _people(),
        "max_file_size": settings.MAX_UPLOAD_OF_STRANGERS if public else settings.MAX_UPLOAD,
        "allowed_paths": [],
        "blocked_paths": [str(folder()) for folder in _OWN_FOLDERS],
        "state_session_capacity": 200,
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": ["api"],
        "mcp_server": settings.serves_mcp(),
        "pwa": False,
        "ssr_mode": False,
        "strict_cors": True,
        "app_kwargs": {
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": [Middleware(Guard)],
        },
    }
