"""Train: a run is chosen and begun on the left; on the right all runs, one of them in full."""

from dataclasses import dataclass

import gradio as gr

from app import text, typed
from app.tabs import train_form, train_runs
from app.train import Samples

_EVERY = 2  # seconds between two looks at the runs, while the tab is open


@dataclass
class Train:
    """What the rest of the page connects to.

    use      a model is to be made of `checkpoint` of the run `chosen`, and taken to Explore
    samples  their event `see` wants one of them in Explore's lens
    tick     asks for news of the runs, while it is active
    """

    chosen: gr.State
    checkpoint: gr.Dropdown
    use: gr.Button
    samples: Samples
    told: gr.HTML
    tick: gr.Timer


def remember() -> gr.BrowserState:
    """What the browser keeps of a training set that is being made. Call it outside of all tabs; the secret is
    none, see `corpus.remember`."""
    return gr.BrowserState(storage_key="retro-train-making", secret="retro-train")


def build(page: gr.Blocks, tab: gr.Tab, making: gr.BrowserState) -> Train:
    """Lay out the tab, inside `tab` of `page`, and wire it."""
    gr.Markdown(text.TRAIN)
    with gr.Row(elem_classes="train-row"):
        with gr.Column(scale=4, min_width=300):
            form = train_form.build(making)
        with gr.Column(scale=7, min_width=300):
            shown = train_runs.build()
    tick = gr.Timer(_EVERY, active=False)
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    looked = {"inputs": shown.asked, "outputs": shown.all, "concurrency_limit": None, **quiet}
    tick.tick(train_runs.show, queue=False, **looked)
    opened = tab.select(train_runs.show, **looked)
    opened.then(lambda: gr.Timer(active=True), outputs=tick, queue=False, **quiet)
    refreshed = opened.then(train_form.refresh, inputs=form.offers, outputs=form.refreshed, **quiet)
    typed.take(refreshed, form.offered, form.offers).then(
        train_form.preview, inputs=form.asked[:-3], outputs=form.previewed, **quiet
    )
    begun = form.begun.change(
        train_form.look_at,
        inputs=[form.begun, shown.chosen],
        outputs=[shown.chosen, form.offered, form.offers[0]],
        queue=False,
        **quiet,
    )
    typed.take(begun, form.offered, form.offers).then(train_runs.show, **looked).then(
        train_form.preview_after, inputs=[form.begun, *form.asked[:-3]], outputs=form.previewed, **quiet
    )
    page.load(train_form.reattach, inputs=making, outputs=form.watched, concurrency_limit=None, **quiet)
    return Train(shown.chosen, shown.checkpoint, shown.use, shown.samples, shown.told, tick)
