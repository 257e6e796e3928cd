"""The page itself, put together from gradio's components; only `serving` imports this module, once gradio is there."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.helpers import Examples

from hf_soups.demo.cascade import DemoCascade, pairs_of, texts_of, thumbnail
from hf_soups.demo.views import batch_view, frontier_view, journey_view, message, plan_view
from hf_soups.errors import HfSoupsError, InputError

MOST = 200  # inputs of a batch; whoever has more has `hf-soups predict`
SHOWN = 12  # examples beneath the input
KEPT = 3600  # seconds after which what visitors sent is deleted
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "Consolas", "monospace")
HINTS = {
    "image": "Upload an image or pick an example, and see which members were asked.",
    "text": "Type a text or pick an example, and see which members were asked.",
    "text-pair": "Type two texts or pick an example, and see which members were asked.",
}
ONE_HINTS = {
    "image": "Upload an image or pick an example, and see what the model says.",
    "text": "Type a text or pick an example, and see what the model says.",
    "text-pair": "Type two texts or pick an example, and see what the model says.",
}
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}  # the models share the cores


def page_of(cascade: DemoCascade, examples: Sequence[Any] = ()) -> gr.Blocks:
    """The page of a cascade.

    Args:
        cascade: it.
        examples: inputs that visitors can take instead of their own, as `DemoCascade.follow` takes them.
    """
    page: gr.Blocks = gr.Blocks(title=cascade.name, analytics_enabled=False, delete_cache=(KEPT, KEPT))
    with page:
        gr.Markdown(_about(cascade))
        number = _budget(cascade)
        with gr.Tab("One input"):
            _one(cascade, examples, number)
        with gr.Tab("Many inputs"):
            _many(cascade, examples, number)
    # what gradio 6 takes at the launch; a caller's own values win
    page.launch = functools.partial(page.launch, **appearance())  # type: ignore[method-assign]  # this page's alone
    return page


def appearance() -> dict[str, Any]:
    """Theme and style: the system's own fonts, so that nothing is fetched from anywhere."""
    return {
        "theme": gr.themes.Soft(primary_hue="blue", secondary_hue="blue", font=FONTS, font_mono=MONO).set(
            # gradio's own greys are too pale to read on white
            body_text_color_subdued="*neutral_600",
            body_text_color_subdued_dark="*neutral_300",
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_300",
            block_label_text_color="*primary_800",
            block_title_text_color="*primary_800",
            body_background_fill="*neutral_50",
            block_border_width="1px",
            block_border_color="*neutral_300",
            block_border_color_dark="*neutral_600",
            border_color_primary="*neutral_300",
            border_color_primary_dark="*neutral_600",
            color_accent="*primary_600",
            button_primary_background_fill="*primary_600",
            button_primary_background_fill_hover="*primary_700",
            button_primary_background_fill_dark="*primary_600",
            button_primary_background_fill_hover_dark="*primary_700",
            button_secondary_background_fill_dark="*neutral_700",
            button_secondary_background_fill_hover_dark="*neutral_600",
            link_text_color="*primary_700",
            link_text_color_dark="*primary_300",
            link_text_color_hover_dark="*primary_200",
            link_text_color_visited_dark="*primary_300",
            link_text_color_active_dark="*primary_300",
        ),
        "css_paths": [Path(__file__).with_name("look.css")],
        "footer_links": [],
        "ssr_mode": False,  # pages are made in the browser: no second server
        "pwa": False,
        "share": False,
    }


def _about(cascade: DemoCascade) -> str:
    members = [as_written(name) for name in cascade.config.built.members]
    text = (
        f"{len(members)} models are asked one after another, from {members[0]} to {members[-1]}, until the answer is "
        f"sure enough. {len(cascade.label_names)} classes."
        if len(members) > 1
        else f"One model, {members[0]}, so every input costs the same. {len(cascade.label_names)} classes."
    )
    return f"# {as_written(cascade.name)}\n\n{text}"


def as_written(name: str) -> str:
    """A name from anywhere for Markdown, which would take parts of it for HTML, links or emphasis.

    >>> print(as_written("a_b <i>"))
    a\\_b \\<i\\>
    """
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(name.split()))


def _budget(cascade: DemoCascade) -> gr.Slider:
    """The slider over the plans, with the plan that it is at; hidden where there is only one."""
    count = len(cascade.plans)
    with gr.Row(visible=count > 1):
        with gr.Column(scale=1):
            number = gr.Slider(
                1, max(count, 2), cascade.built + 1, step=1, label="Budget", buttons=[],
                info="Number of the plan, from the cheapest to the most expensive on average", elem_id="budget",
            )  # fmt: skip
            drawn = _view(frontier_view(cascade.plans, cascade.built), "frontier")
        with gr.Column(scale=1):
            plan = _view(_plan_view(cascade, cascade.built), "plan")
    number.change(
        functools.partial(_moved, cascade), number, [plan, drawn], show_progress="hidden", queue=False,
        api_visibility="private",
    )  # fmt: skip
    return number


def _one(cascade: DemoCascade, examples: Sequence[Any], number: gr.Slider) -> None:
    shown: Examples | None = None
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            asked = _inputs(cascade.kind)
            button = None if cascade.kind == "image" else gr.Button("Classify", variant="primary")
            if examples:
                rows = [list(e) if isinstance(e, tuple) else [str(e)] for e in examples[:SHOWN]]
                shown = gr.Examples(rows, asked, label="Examples", examples_per_page=SHOWN, cache_examples=False)
        with gr.Column(scale=3, min_width=300):
            result = _view(message(_hint(cascade, bool(examples))), "result")
    _wire(cascade, asked, result, button, shown, number)


def _hint(cascade: DemoCascade, examples: bool = True) -> str:
    hint = (ONE_HINTS if cascade.always.alone else HINTS)[cascade.kind]
    return hint if examples else hint.replace(" or pick an example", "")


def _inputs(kind: str) -> list[gr.Image | gr.Textbox]:
    if kind == "image":
        picture = gr.Image(
            label="Image", type="filepath", sources=["upload", "clipboard"], height=320, elem_id="image",
            alt_text="The image that was uploaded",
        )  # fmt: skip
        # the file as it was sent: gradio's own step would re-encode it, and say nothing useful of a damaged one.
        # Not a subclass: gradio writes a .pyi beside each one's source.
        picture.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]  # see above
        return [picture]
    labels = ("Text",) if kind == "text" else ("First text", "Second text")
    # one line that grows: Enter runs it, Shift and Enter begin a new line
    return [gr.Textbox(label=label, max_lines=8, elem_id=f"text-{i}") for i, label in enumerate(labels)]


def _wire(
    cascade: DemoCascade,
    asked: list[gr.Image | gr.Textbox],
    result: gr.HTML,
    button: gr.Button | None,
    examples: Examples | None,
    number: gr.Slider,
) -> None:
    """An image starts a run, as do the button, Enter and an example of texts; the slider runs the same input again."""
    how: dict[str, Any] = {"inputs": [*asked, number], "outputs": result, **ONE_AT_A_TIME}
    ask = functools.partial(_ask, cascade)
    if button is None:
        asked[0].change(ask, api_name="classify", scroll_to_output=True, **how)
    else:
        button.click(ask, api_name="classify", scroll_to_output=True, **how)
        for text in asked:
            assert isinstance(text, gr.Textbox)
            text.submit(ask, api_visibility="private", scroll_to_output=True, **how)
        if examples is not None:
            examples.load_input_event.then(ask, api_visibility="private", scroll_to_output=True, **how)
    number.change(functools.partial(_ask, cascade, again=True), api_visibility="private", **how)


def _many(cascade: DemoCascade, examples: Sequence[Any], number: gr.Slider) -> None:
    given: gr.File | gr.Textbox
    if cascade.kind == "image":
        given = gr.File(label="Images", file_count="multiple", file_types=["image"], height=200, elem_id="images")
    else:
        what = "Texts, one on a line" if cascade.kind == "text" else "Pairs, one on a line: first ||| second"
        given = gr.Textbox(label=what, lines=8, elem_id="lines")
    with gr.Row():
        button = gr.Button("Classify all", variant="primary")
        taken = gr.Button(f"Classify the {len(examples)} examples", visible=bool(examples))
    average = "" if cascade.always.alone else " The average cost is shown above the answers."
    answered = gr.State(0)  # the plan of the answers below, from 1; 0: there are none
    old = _view("", "batch-old")
    result = _view(message(f"Up to {MOST} inputs at once.{average}"), "batch")
    how: dict[str, Any] = {"outputs": [result, answered, old], **ONE_AT_A_TIME}
    number.change(_marked_old, [answered, number], old, show_progress="hidden", queue=False, api_visibility="private")
    button.click(functools.partial(_ask_many, cascade), [given, number], api_name="classify_many", **how)
    taken.click(lambda at: _batch(cascade, list(examples), at), number, api_visibility="private", **how)


def _view(html: str, name: str) -> gr.HTML:
    """A place for HTML of our own, which a screen reader reads out when it changes."""
    return gr.HTML(
        html,
        html_template='<div class="hs-view" aria-live="polite">${value}</div>',
        js_on_load=None,
        apply_default_css=False,
        elem_id=name,
    )


def _moved(cascade: DemoCascade, number: float) -> tuple[str, str]:
    at = _at(cascade, number)
    return _plan_view(cascade, at), frontier_view(cascade.plans, at)


def _plan_view(cascade: DemoCascade, number: int) -> str:
    return plan_view(cascade.plans[number], number, len(cascade.plans), cascade.built, cascade.always)


def _ask(cascade: DemoCascade, *given: Any, again: bool = False) -> str:
    """The view of one input's journey; the last of `given` is the plan's number, from 1."""
    *inputs, number = given
    if inputs[0] is None or (again and not any(inputs)):
        return message(_hint(cascade))
    plan = cascade.plans[_at(cascade, number)]
    value = inputs[0] if len(inputs) == 1 else (str(inputs[0] or ""), str(inputs[1] or ""))
    try:
        way = cascade.follow([value], plan)[0]
    except HfSoupsError as error:
        return message(str(error), wrong=True)
    return journey_view(way, plan, cascade.label_names, cascade.always)


def _marked_old(answered: int, number: float) -> str:
    """What is said above the answers of a batch once the slider is elsewhere."""
    if not answered or answered == int(number):
        return ""
    return message(f"These answers are of plan {answered}. For plan {int(number)}, press the button again.", wrong=True)


def _ask_many(cascade: DemoCascade, given: Any, number: float) -> tuple[str, int, str]:
    """The view of a batch, files or texts line by line; the plan that was followed, and that it is not old."""
    try:
        if cascade.kind == "image":
            inputs: list[Any] = list(given or ())
        else:
            inputs = texts_of(given or "") if cascade.kind == "text" else pairs_of(given or "")
    except InputError as error:
        return message(str(error), wrong=True), 0, ""
    return _batch(cascade, inputs, number)


def _batch(cascade: DemoCascade, inputs: list[Any], number: float) -> tuple[str, int, str]:
    if not inputs:
        return message("nothing to classify: give at least one input.", wrong=True), 0, ""
    if len(inputs) > MOST:
        said = f"{len(inputs)} inputs; the page takes {MOST} at once. Use hf-soups predict for more."
        return message(said, wrong=True), 0, ""
    plan = cascade.plans[_at(cascade, number)]
    names = [Path(value).name if cascade.kind == "image" else _line(value) for value in inputs]
    try:
        ways = cascade.follow_each(inputs, plan)
    except HfSoupsError as error:
        return message(str(error), wrong=True), 0, ""
    small = [thumbnail(value) for value in inputs] if cascade.kind == "image" else ()
    at = _at(cascade, number) + 1
    return batch_view(names, ways, plan, cascade.label_names, cascade.always, small), at, ""


def _at(cascade: DemoCascade, number: float) -> int:
    """The slider counts from 1; who calls without a browser may send anything."""
    return min(max(int(number), 1), len(cascade.plans)) - 1


def _line(value: str | tuple[str, str]) -> str:
    return value if isinstance(value, str) else " ||| ".join(value)
