"""Answers of the service are those of the pipelines, on tiny cascades and single models, however rows are batched."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import pipeline

from hf_soups import build_app
from hf_soups.cascades.plan import within_budget
from hf_soups.errors import InputError
from hf_soups.serving import ServeSettings, make_app
from hf_soups.serving.served import load_served
from tests.cascades.made import clear_of
from tests.demo.made import Demo, demo_of
from tests.makers.tiny import tiny_bert, tiny_sentences
from tests.serving.asgi import Answer, call, post
from tests.serving.test_app import run

BUDGETS = (None, 0.3, 1)


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Demo]:
    kept: dict[str, Demo] = {}

    def one(kind: str) -> Demo:
        if kind not in kept:
            kept[kind] = demo_of(kind, tmp_path_factory.mktemp(kind))
        return kept[kind]

    return one


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def inputs_of(demo: Demo) -> list[Any]:
    """As a request has them."""
    if demo.pool.kind != "image":
        return demo.pool.inputs
    return [base64.b64encode(encoded(image)).decode() for image in demo.pool.inputs]


def pipe_of(demo: Demo) -> Any:
    task = "image" if demo.pool.kind == "image" else "text"
    return pipeline(f"cascade-{task}-classification", model=str(demo.folder), device="cpu")  # type: ignore[call-overload]


def assert_same(got: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """The same labels, scores and exits, the highest score first; equal scores may stand in any order."""
    first, second = ({one["label"]: one["score"] for one in answers} for answers in (got, wanted))
    assert first == pytest.approx(second, rel=0, abs=1e-6)
    assert [one["score"] for one in got] == sorted(first.values(), reverse=True)
    about = [{name: v for name, v in one.items() if name not in ("label", "score")} for one in (*got, *wanted)]
    assert about[: len(got)] == about[len(got) :]


@pytest.mark.parametrize("kind", ["text", *(pytest.param(k, marks=pytest.mark.slow) for k in ("text-pair", "image"))])
def test_the_services_answers_are_the_pipelines_at_every_budget(demos: Callable[[str], Demo], kind: str) -> None:
    demo = demos(kind)
    pipe, app = pipe_of(demo), build_app(demo.folder, device="cpu", max_batch=8, wait_ms=20)
    assert app.state.service.max_body == (10 * 2**20 if kind == "image" else 2**20)
    plans = {budget: demo.built if budget is None else within_budget(demo.plans, budget) for budget in BUDGETS}
    wanted = {}
    for budget in BUDGETS:
        pipe.model.budget = budget
        wanted[budget] = [pipe(row, top_k=4, return_exits=True) for row in demo.pool.inputs]
    rows = [(budget, i) for i in range(len(demo.pool.inputs)) for budget in BUDGETS]
    sent = inputs_of(demo)

    async def story() -> list[Answer]:
        return await asyncio.gather(*(post(app, sent[i], return_exits=True, budget=budget) for budget, i in rows))

    clear = {budget: clear_of(plan, demo.pool.predictions) for budget, plan in plans.items()}
    compared = 0
    for (budget, i), answer in zip(rows, run(story()), strict=True):
        assert answer.status == 200, answer.body
        own = answer.json if kind == "image" else answer.json[0]
        if clear[budget][i]:  # no rounding turns it
            assert_same(own, wanted[budget][i])
            compared += 1
    assert compared > 0.8 * len(rows)
    assert {stage for _, stage in app.state.service.counters.exits} == {0, 1, 2}


def test_a_services_own_budget_is_that_of_requests_without_one(demos: Callable[[str], Demo]) -> None:
    demo = demos("text")
    cheap = load_served(demo.folder, device="cpu", budget=0.1)
    assert cheap.plans[cheap.number_of(None)].members == ("bert",)
    assert len(cheap.plans[cheap.number_of(1)].members) == 3
    with pytest.raises(InputError, match=r"a budget of 0\.001"):
        load_served(demo.folder, device="cpu", budget=0.001)


@pytest.mark.parametrize("kind", ["text", "text-pair", "image"])
def test_a_single_classifier_is_served_as_its_stock_pipeline_answers(demos: Callable[[str], Demo], kind: str) -> None:
    pool = demos(kind).pool
    source = pool.members["vit" if kind == "image" else "bert"].source
    app = build_app(source, device="cpu", pair=kind == "text-pair")
    stock = pipeline(f"{'image' if kind == 'image' else 'text'}-classification", model=source, device="cpu")  # type: ignore[call-overload]
    answer = run(post(app, inputs_of(demos(kind))[:6], top_k=4))
    for got, row in zip(answer.json, pool.inputs, strict=False):
        assert_same(got, stock(row, top_k=4))
    about = run(post(app, inputs_of(demos(kind))[0], return_exits=True)).json
    one = about[0] if kind == "image" else about[0][0]
    assert (one["exit"], one["members"]) == (0, ["vit" if kind == "image" else "bert"])
    assert one["cost"] > 1000  # parameters
    assert run(post(app, inputs_of(demos(kind))[0], budget=0.5)).status == 400


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [("multi_label_classification", 3), ("regression", 1)],
    ids=["multi-label", "regression"],
)
def test_sigmoids_and_numbers_are_those_of_the_stock_pipeline(tmp_path: Path, problem_type: str, labels: int) -> None:
    source = tiny_bert(tmp_path / "bert", labels=labels, problem_type=problem_type)
    stock: Any = pipeline("text-classification", model=str(source), device="cpu")
    texts = tiny_sentences(6)
    answer = run(post(build_app(source, device="cpu"), texts))
    for got, row in zip(answer.json, texts, strict=True):
        assert_same(got, stock([row], top_k=None)[0])


def test_budgets_and_devices_by_member_are_for_cascades(demos: Callable[[str], Demo]) -> None:
    source = demos("text").pool.members["bert"].source
    with pytest.raises(InputError, match="a budget is for cascades"):
        load_served(source, budget=0.5)
    with pytest.raises(InputError, match="there are no members to name"):
        load_served(source, device={"bert": "cpu"})
    by_member = load_served(demos("text").folder, device={"bert": "cpu", "": "cpu"}, dtype={"bert": "bfloat16"})
    assert by_member.members == ("bert", "roberta", "distilbert")
    assert load_served(demos("text").folder, device="cpu", dtype="bfloat16").members == by_member.members


def test_bytes_of_an_image_are_answered_as_its_base64(demos: Callable[[str], Demo]) -> None:
    demo = demos("image")
    app = make_app(load_served(demo.folder, device="cpu"))
    png = encoded(demo.pool.inputs[0])
    by_base64 = run(post(app, base64.b64encode(png).decode())).json
    for headers in ({"content-type": "image/png"}, {"content-type": "application/octet-stream"}, {}):
        assert run(call(app, png, headers)).json == by_base64
    assert [set(one) for one in by_base64] == [{"label", "score"}] * 4


def test_images_that_cannot_be_read_cost_their_own_request(demos: Callable[[str], Demo]) -> None:
    demo = demos("image")
    app = make_app(load_served(demo.folder, device="cpu"), ServeSettings(max_pixels=1200 * 1200, wait_ms=50))
    good, large = encoded(demo.pool.inputs[0]), encoded(Image.new("RGB", (1300, 1200)))
    cut = encoded(Image.effect_noise((1100, 1100), 50).convert("RGB"))[:-5000]  # its head is whole: it breaks late
    bodies = {"good": good, "none": b"no image", "cut": cut, "small-cut": good[:-40], "large": large,
              "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n"}  # fmt: skip

    async def story() -> list[Answer]:
        return await asyncio.gather(*(call(app, body, {"content-type": "image/png"}) for body in bodies.values()))

    answers = dict(zip(bodies, run(story()), strict=True))
    assert {name: answer.status for name, answer in answers.items()} == {
        "good": 200, "none": 400, "cut": 400, "small-cut": 400, "large": 413, "svg": 400, "eps": 400,
    }  # fmt: skip
    assert "the image has 1300 x 1200 pixels; at most 1,440,000 are read" in answers["large"].error
    assert "the image cannot be read" in answers["none"].error
    several = run(post(app, [base64.b64encode(body).decode() for body in (good, cut)]))
    assert several.status == 400
    assert several.error.startswith("input 1: the image cannot be read")


def test_a_server_of_ones_own_can_be_given_the_app() -> None:
    import hf_soups

    assert hf_soups.build_app is build_app
