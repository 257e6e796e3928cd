"""What the demo answers is what the cascade's pipeline answers, exit for exit; what cannot be read is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import pipeline

import hf_soups  # noqa: F401 (registers the pipelines)
from hf_soups.cascades.frontier import Frontier, save_frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.running.model import CascadeForSequenceClassification
from hf_soups.demo import build_page, serve
from hf_soups.demo.cascade import AT_ONCE, DemoCascade, load_demo_cascade
from hf_soups.demo.journeys import Journey
from hf_soups.demo.serving import free_port
from hf_soups.errors import CheckpointError, DataError, HfSoupsError, InputError
from tests.demo.made import Demo, demo_of
from tests.makers.tiny import tiny_bert, tiny_vit

Get = Callable[[str], tuple[Demo, DemoCascade]]


@pytest.fixture(scope="module")
def get(tmp_path_factory: pytest.TempPathFactory) -> Get:
    kept: dict[str, tuple[Demo, DemoCascade]] = {}

    def one(kind: str) -> tuple[Demo, DemoCascade]:
        if kind not in kept:
            made = demo_of(kind, tmp_path_factory.mktemp(kind))
            kept[kind] = made, load_demo_cascade(made.folder, device="cpu")
        return kept[kind]

    return one


@pytest.mark.parametrize("kind", ["image", "text", "text-pair"])
def test_every_plan_leaves_and_answers_as_the_pipeline_does(get: Get, kind: str) -> None:
    made, cascade = get(kind)
    assert (cascade.kind, cascade.name) == (kind, "my-cascade")
    pipe: Any = pipeline(f"cascade-{kind.split('-')[0]}-classification", model=str(made.folder), device="cpu")
    inputs = [str(i) if kind == "image" else i for i in made.inputs]
    raw = [{"text": i[0], "text_pair": i[1]} if isinstance(i, tuple) else i for i in inputs]
    exits = set()
    for plan in cascade.plans:
        share = plan.average_cost / max(cascade.model.config.built.costs)
        pipe.model.budget = share * (1 + 1e-9)
        assert pipe.model.plan.thresholds == plan.thresholds
        answers = pipe(raw, batch_size=len(raw), top_k=None, return_exits=True)
        ways = cascade.follow(inputs, plan)
        for way, answer in zip(ways, answers, strict=True):
            best = answer[0]
            assert (way.exit, way.cost) == (best["exit"], best["cost"])
            assert [m.member for m in way.meetings] == best["members"]
            assert cascade.label_names[way.answer] == best["label"]
            assert way.probability == pytest.approx(best["score"], abs=1e-6)
        exits |= {way.exit for way in ways}
    assert exits == {0, 1, 2}  # else little is tested
    assert cascade.model.plan == made.built  # asking changed nothing for the next visitor


def test_plans_stand_from_cheap_to_dear_and_the_built_one_once(get: Get) -> None:
    made, cascade = get("image")
    costs = [plan.average_cost for plan in cascade.plans]
    assert costs == sorted(costs)
    assert len(cascade.plans) == len(made.plans)
    assert cascade.plans[cascade.built] == made.built
    assert (cascade.always.member, cascade.always.cost) == (made.built.members[-1], made.built.costs[-1])


def test_a_frontier_file_gives_the_plans_if_it_is_over_the_members(get: Get, tmp_path: Path) -> None:
    made, _ = get("image")
    other = Plan(("stranger",), (), (1.0,), score=0.9, average_cost=1.0, unit="macs")
    save_frontier(Frontier((made.plans[0], other), (other,)), tmp_path / "frontier.json")
    cascade = load_demo_cascade(made.folder, frontier=tmp_path / "frontier.json", device="cpu")
    assert [plan.members for plan in cascade.plans] == [made.plans[0].members, made.built.members]
    save_frontier(Frontier((other,), (other,)), tmp_path / "other.json")
    with pytest.raises(InputError, match=r"none of its 1 plans is over the cascade's members \(vit, resnet, other-vit"):
        load_demo_cascade(made.folder, frontier=tmp_path / "other.json")


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_images_of_any_mode_are_answered_as_by_the_pipeline(get: Get, tmp_path: Path, mode: str) -> None:
    from PIL import Image

    made, cascade = get("image")
    values = np.random.default_rng(1).integers(0, 256, (40, 30), dtype=np.uint8)
    grey = Image.fromarray(values.astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(values).convert(mode)
    path = tmp_path / ("odd.tiff" if mode == "CMYK" else "odd.png")
    grey.save(path)
    assert Image.open(path).mode in (mode, "I")
    pipe: Any = pipeline("cascade-image-classification", model=cascade.model, device="cpu")
    best = pipe(str(path), return_exits=True)[0]
    way = cascade.follow([path], made.built)[0]
    assert (cascade.label_names[way.answer], way.exit) == (best["label"], best["exit"])


def test_a_broken_image_is_named_and_the_others_are_answered(get: Get, tmp_path: Path) -> None:
    made, cascade = get("image")
    whole = made.inputs[0].read_bytes()
    cut, text, script = tmp_path / "cut.png", tmp_path / "notes.png", tmp_path / "drawing.png"
    cut.write_bytes(whole[: len(whole) // 2])
    text.write_text("no image")
    script.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")  # would start Ghostscript
    for path in (cut, text, script):
        with pytest.raises(DataError, match=rf"^{path.name} cannot be read as an image: it is damaged, or of another"):
            cascade.follow([path], made.built)
    mixed = [made.inputs[0], cut, made.inputs[1], text]
    told = cascade.follow_each(mixed, made.built)
    assert [isinstance(way, Journey) for way in told] == [True, False, True, False]
    assert cascade.follow_each([cut], made.built) == [told[1]]
    right = cascade.follow(made.inputs[:2], made.built)
    for way, one in zip((told[0], told[2]), right, strict=True):
        assert isinstance(way, Journey)
        np.testing.assert_array_equal(way.log_probs, one.log_probs)


def test_a_long_batch_goes_in_pieces_and_comes_back_in_order(get: Get) -> None:
    made, cascade = get("text")
    inputs = (made.inputs * (AT_ONCE // len(made.inputs) + 2))[: AT_ONCE + 5]
    ways = cascade.follow_each(inputs, made.built)
    assert len(ways) == AT_ONCE + 5
    single = {text: cascade.follow([text], made.built)[0].answer for text in made.inputs}
    assert [way.answer for way in ways if isinstance(way, Journey)] == [single[text] for text in inputs]


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("text", "", "the text is empty"),
        ("text", " \n\t", "the text is empty"),
        ("text-pair", ("a cat", " "), "a text of the pair is empty"),
    ],
)
def test_empty_texts_are_refused(get: Get, kind: str, given: Any, said: str) -> None:
    made, cascade = get(kind)
    with pytest.raises(InputError, match=said):
        cascade.follow([given], made.built)


def test_a_single_classifier_is_a_cascade_of_one(tmp_path: Path) -> None:
    folder = tiny_bert(
        tmp_path / "soup", labels=3, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2}
    )
    cascade = load_demo_cascade(folder, device="cpu")
    assert (cascade.kind, cascade.label_names, len(cascade.plans)) == ("text", ("a", "b", "c"), 1)
    way = cascade.follow(["a good film"], cascade.plans[0])[0]
    alone: Any = pipeline("text-classification", model=str(folder), device="cpu")
    best = alone("a good film")[0]
    assert (cascade.label_names[way.answer], way.probability) == (best["label"], pytest.approx(best["score"], abs=1e-6))
    assert way.cost == cascade.always.cost == sum(p.numel() for p in cascade.model.members[0].parameters())
    pairs = load_demo_cascade(folder, pair=True, device="cpu")
    assert pairs.kind == "text-pair"
    assert pairs.follow([("a cat", "a dog")], pairs.plans[0])[0].exit == 0


def test_members_are_loaded_once_when_they_are_first_asked(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = get("text")
    load, times = CascadeForSequenceClassification.from_pretrained, []
    monkeypatch.setattr(
        CascadeForSequenceClassification, "from_pretrained", lambda *a, **k: times.append(a) or load(*a, **k)
    )
    cascade = load_demo_cascade(made.folder, device="cpu")
    assert (cascade.label_names, cascade.plans[cascade.built], times) == (cascade.config.label_names, made.built, [])
    with ThreadPoolExecutor(4) as visitors:
        ways = list(visitors.map(lambda text: cascade.follow([text], made.built)[0].answer, made.inputs[:4]))
    assert len(times) == 1
    assert ways == [cascade.follow([text], made.built)[0].answer for text in made.inputs[:4]]


@pytest.mark.slow  # gradio is imported
def test_the_page_of_members_that_cannot_be_loaded_ends_with_the_reason(get: Get, tmp_path: Path) -> None:
    made, _ = get("text")
    folder = shutil.copytree(made.folder, tmp_path / "c")
    next(folder.glob("member_*/model.safetensors")).write_bytes(b"damaged")
    port = free_port()
    with pytest.raises(HfSoupsError, match=r"model\.safetensors"):
        serve(folder, port=port, wait=False, device="cpu")
    assert free_port(port=port) == port
    with pytest.raises(HfSoupsError, match=r"model\.safetensors"):
        build_page(folder, device="cpu")


def test_what_is_no_cascade_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"neither a cascade nor a classifier, for there is no config\.json"):
        load_demo_cascade(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="no such folder"):
        load_demo_cascade(tmp_path / "nowhere")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(InputError, match=r"config\.json names BertModel"):
        load_demo_cascade(bare)


def test_a_classifier_may_lie_in_a_folder_of_any_name_and_be_made_of_links(tmp_path: Path) -> None:
    real = tiny_vit(tmp_path / "real")
    odd = tmp_path / "my soup"
    odd.mkdir()
    for file in real.iterdir():
        (odd / file.name).symlink_to(file)
    assert load_demo_cascade(odd, device="cpu").name == "my soup"


def test_plans_of_one_way_are_shown_once_and_as_the_built_one_tells_it(get: Get, tmp_path: Path) -> None:
    made, _ = get("image")
    built = replace(made.built, score_low=0.4)
    folder = made.pool.built(built, tmp_path / "c", frontier=made.plans)
    cascade = load_demo_cascade(folder, device="cpu")
    assert len(cascade.plans) == len(made.plans)
    assert cascade.plans[cascade.built].score_low == 0.4
