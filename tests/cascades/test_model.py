"""A cascade that runs leaves where its simulation on stored predictions says, and answers the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_soups.cascades.plan import Plan, within_budget
from hf_soups.cascades.rule import NEVER, Rule
from hf_soups.cascades.running.config import CascadeConfig
from hf_soups.cascades.running.model import CascadeForImageClassification, CascadeForSequenceClassification
from hf_soups.cascades.simulate import run_rows
from hf_soups.errors import InputError, MemberError
from hf_soups.models.readers import ImageReader, like_lengths
from hf_soups.predictions import Predictions
from tests.cascades.made import CLOSE, Made, answers_of, clear_of, make
from tests.models.conftest import task_of

KINDS = ("image", "text", "text-pair")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    kept: dict[Any, Made] = {}

    def one(kind: str, **how: Any) -> Made:
        key = (kind, *sorted(how.items()))
        if key not in kept:
            kept[key] = make(kind, tmp_path_factory.mktemp(kind), **how)
        return kept[key]

    return one


def load(folder: Path, kind: str, **how: Any) -> Any:
    cls: Any = CascadeForImageClassification if kind == "image" else CascadeForSequenceClassification
    return cls.from_pretrained(folder, **how)


def run(model: Any, pool: Made, at: slice = slice(None)) -> Any:
    if pool.kind == "image":
        return model(images=[image.convert("RGB") for image in pool.inputs[at]])
    return model([(r["text"], r["text_pair"]) if isinstance(r, dict) else r for r in pool.inputs[at]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "rule", [Rule(), Rule("geometric", "gap"), Rule("last", "entropy"), Rule("mean", "agreement")], ids=str
)
def test_exits_and_answers_are_those_of_the_simulation(
    made: Callable[..., Made], tmp_path: Path, kind: str, rule: Rule, dtype: str
) -> None:
    pool = made(kind, dtype=dtype)
    plan = pool.plan(
        (0.4, 0.5), rule, (0.1, 0.13, 0.07)
    )  # random models are unsure: all of their confidences would be alike
    model = load(pool.built(plan, tmp_path / "c", max_length=64), kind)
    told = plan.apply(pool.predictions)
    assert told.exits is not None
    assert told.costs is not None
    assert rule.confidence == "agreement" or len(set(told.exits.tolist())) == 3  # else little is tested
    clear = clear_of(plan, pool.predictions, CLOSE[dtype])
    assert clear.all() if dtype == "float32" else clear.mean() > 0.25
    for size in (24, 7, 1):
        parts = [run(model, pool, slice(at, at + size)) for at in range(0, 24, size)]
        exits, costs, logits = (
            np.concatenate([p[name].numpy() for p in parts]) for name in ("exits", "costs", "logits")
        )
        assert exits[clear].tolist() == told.exits[clear].tolist()
        assert costs[clear].tolist() == told.costs[clear].tolist()
        assert logits.argmax(axis=1)[clear].tolist() == told.answers[clear].tolist()
        assert np.abs(np.exp(logits) - told.probs)[clear].max() < CLOSE[dtype]


def test_a_row_runs_only_the_members_it_needs(made: Callable[..., Made], tmp_path: Path) -> None:
    pool = made("image")
    plan = pool.plan((0.4, 0.5))
    model = load(pool.built(plan, tmp_path / "c"), "image")
    seen: list[int] = []
    for module in model.members:
        module.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
        )
    exits = run(model, pool).exits.numpy()
    assert seen == [int((exits >= stage).sum()) for stage in range(3)]


def test_thresholds_of_0_run_the_first_member_alone_and_never_runs_all(made: Callable[..., Made]) -> None:
    pool = made("image")
    members = list(pool.predictions.values())

    def answer(stage: int, rows: np.ndarray) -> np.ndarray:
        return members[stage].log_probs[rows]

    first = run_rows(answer, 24, (0.0, 0.0), Rule())
    assert first.exits.tolist() == [0] * 24
    all_of_them = run_rows(answer, 24, (NEVER, NEVER), Rule())
    assert all_of_them.exits.tolist() == [2] * 24


def test_save_then_load_is_the_identity(made: Callable[..., Made], tmp_path: Path) -> None:
    for kind in ("image", "text-pair"):
        pool = made(kind)
        model = load(pool.built(pool.plan((0.4, 0.5)), tmp_path / kind), kind)
        model.save_pretrained(tmp_path / f"{kind}-again")
        again = load(tmp_path / f"{kind}-again", kind)
        before, after = run(model, pool), run(again, pool)
        assert torch.equal(before.logits, after.logits)
        assert torch.equal(before.exits, after.exits)
        assert again.config.to_dict()["plan"] == model.config.to_dict()["plan"]


def test_auto_classes_load_a_cascade_and_each_of_its_members(made: Callable[..., Made], tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

    pool = made("image")
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
    assert isinstance(AutoConfig.from_pretrained(folder), CascadeConfig)
    assert isinstance(AutoModelForImageClassification.from_pretrained(folder), CascadeForImageClassification)
    member = AutoModelForImageClassification.from_pretrained(folder, subfolder="member_1")
    assert type(member).__name__ == "ResNetForImageClassification"
    with pytest.raises(InputError, match=r"of kind 'image'.*Use CascadeForImageClassification"):
        AutoModelForSequenceClassification.from_pretrained(folder)


def test_one_model_at_two_input_sizes_is_stored_and_held_once(tmp_path: Path) -> None:
    pool = make("image", tmp_path, rows=12)
    small = pool.members["vit"]
    members = {"at-32": replace(small, name="at-32"), "at-48": replace(small, name="at-48", image_size=48)}
    answered = {name: answers_of(m, pool.split, task_of("image"), "image") for name, m in members.items()}
    again = Made("image", members, pool.split, answered)
    plan = again.plan((0.5,))
    folder = again.built(plan, tmp_path / "c")
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["member_0"]
    model = load(folder, "image")
    assert model.members[0] is model.members[1]
    told = plan.apply(again.predictions)
    assert told.exits is not None
    assert run(model, again).exits.tolist() == told.exits.tolist()
    assert np.abs(np.exp(run(model, again).logits.numpy()) - told.probs).max() < CLOSE["float32"]


def test_equal_processors_read_a_row_once(
    made: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = made("image")
    model = load(pool.built(pool.plan((0.4, 0.5)), tmp_path / "c"), "image")
    assert model.reader_numbers == (0, 1, 0)  # both ViTs have the same processor
    read, calls = ImageReader.read, []

    def counting(reader: ImageReader, images: Any) -> Any:
        calls.append((model.readers.index(reader), len(images)))
        return read(reader, images)

    monkeypatch.setattr(ImageReader, "read", counting)
    exits = run(model, pool).exits.numpy()
    assert calls == [(0, 24), (1, int((exits > 0).sum()))]


def test_labels_in_another_order_are_put_in_the_cascades(tmp_path: Path) -> None:
    pool = make("image", tmp_path, rows=8)
    names = ("great", "bad", "good", "fine")
    plan = Plan(("vit", "resnet"), (NEVER,), (1.0, 2.0))
    from hf_soups.cascades.running.build_folder import build_cascade

    model = load(build_cascade(plan, pool.members, tmp_path / "c", kind="image", label_names=names), "image")
    order = [("bad", "fine", "good", "great").index(name) for name in names]
    told = plan.apply(pool.predictions)
    assert np.abs(run(model, pool).logits.numpy() - told.log_probs[:, order]).max() < CLOSE["float32"]
    assert model.config.label_names == names


def test_dtype_and_device_reach_every_member(made: Callable[..., Made], tmp_path: Path) -> None:
    pool = made("image", dtype="bfloat16")
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
    assert {m.dtype for m in load(folder, "image").members} == {torch.bfloat16}
    assert {m.dtype for m in load(folder, "image", dtype="float32").members} == {torch.float32}
    assert load(folder, "image", device_map="cpu").device == torch.device("cpu")
    with pytest.raises(InputError, match="expected one device, device_map='cuda:0', or that of each member"):
        load(folder, "image", device_map="auto")


def test_members_have_a_dtype_and_a_device_of_their_own(made: Callable[..., Made], tmp_path: Path) -> None:
    pool = made("image")
    plan = pool.plan((0.4, 0.5))
    folder, (first, second, third) = pool.built(plan, tmp_path / "c"), plan.members
    model = load(folder, "image", dtype={second: "bfloat16", third: "auto"}, device_map={first: "cpu", "": "cpu"})
    assert [m.dtype for m in model.members] == [torch.float32, torch.bfloat16, torch.float32]
    assert model.hf_device_map == dict.fromkeys(plan.members, torch.device("cpu"))
    others = load(folder, "image", dtype={"": torch.bfloat16, first: torch.float32})
    assert [m.dtype for m in others.members] == [torch.float32, torch.bfloat16, torch.bfloat16]
    with pytest.raises(InputError, match=f"device_map names large, but the members of the cascade are {first}, "):
        load(folder, "image", device_map={first: "cpu", "large": "cuda"})
    with pytest.raises(InputError, match=r"dtype='float12'; expected a torch\.dtype"):
        load(folder, "image", dtype={first: "float12"})


def test_members_placed_one_by_one_answer_and_leave_as_together(made: Callable[..., Made], tmp_path: Path) -> None:
    pool = made("text")
    plan = pool.plan((0.4, 0.5))
    folder = pool.built(plan, tmp_path / "c")
    apart = load(folder, "text", dtype=dict.fromkeys(plan.members, "float32"), device_map={"": "cpu"})
    mine, together = run(apart, pool), run(load(folder, "text"), pool)
    assert torch.equal(mine.exits, together.exits)
    assert torch.equal(mine.logits, together.logits)


def test_a_pipeline_leaves_members_where_they_were_placed(made: Callable[..., Made], tmp_path: Path) -> None:
    from transformers import pipeline

    pool = made("text")
    plan = pool.plan((0.4, 0.5))
    folder = str(pool.built(plan, tmp_path / "c"))
    task: Any = "cascade-text-classification"
    placed: Any = pipeline(task, model=folder, device_map={"": "cpu"}, dtype={plan.members[-1]: "bfloat16"})
    assert [m.dtype for m in placed.model.members] == [torch.float32, torch.float32, torch.bfloat16]
    with pytest.raises(ValueError, match="cannot be moved to a specific device"):
        pipeline(task, model=load(Path(folder), "text", device_map={"": "cpu"}), device="cpu")
    # the first stages are float32, so what leaves there answers alike
    stock: Any = pipeline(task, model=folder, device="cpu")
    rows = zip(placed(pool.inputs, return_exits=True), stock(pool.inputs, return_exits=True), strict=True)
    assert all(mine == theirs for mine, theirs in rows if theirs["exit"] < 2)


def test_pixel_values_are_taken_for_each_member(made: Callable[..., Made], tmp_path: Path) -> None:
    pool = made("image")
    model = load(pool.built(pool.plan((0.4, 0.5)), tmp_path / "c"), "image")
    images = [image.convert("RGB") for image in pool.inputs]
    pixels = [reader.read(images).batch(range(24))["pixel_values"] for reader in model.readers]
    assert torch.equal(model(pixel_values=pixels).logits, run(model, pool).logits)
    with pytest.raises(InputError, match="list of one tensor for each of the 3 members"):
        model(pixel_values=pixels[0])
    with pytest.raises(InputError, match="2 tensors of pixel_values for 3 members"):
        model(pixel_values=pixels[:2])


def test_a_cascade_on_the_hub_is_loaded_member_by_member(
    made: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = made("image")
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
    asked: list[Any] = []

    def download(repo: str, revision: str | None, subfolder: str | None, **hub: Any) -> Path:
        asked.append((repo, revision, subfolder, hub))
        return folder

    monkeypatch.setattr("hf_soups.cascades.running.members.download", download)
    how: dict[str, Any] = {"revision": "v1", "token": "secret", "config": CascadeConfig.from_pretrained(folder)}
    load(Path("me/cascade"), "image", **how)
    assert asked == [("me/cascade", "v1", f"member_{i}", {"token": "secret"}) for i in range(3)]


class TestBudget:
    def plans(self, pool: Made) -> tuple[Plan, list[Plan]]:
        built = pool.plan((0.4, 0.5))
        known = dict(unit="macs", rule=built.rule)
        cheap = Plan(("vit",), (), (1.0,), score=0.5, average_cost=1.0, **known)
        mid = Plan(("vit", "other-vit"), (0.5,), (1.0, 16.0), score=0.7, average_cost=6.0, **known)
        foreign = Plan(("else",), (), (0.1,), score=0.9, average_cost=0.1, **known)
        return built, [cheap, mid, foreign]

    def test_moves_along_the_frontier(self, made: Callable[..., Made], tmp_path: Path) -> None:
        pool = made("image")
        built, further = self.plans(pool)
        model = load(pool.built(built, tmp_path / "c", frontier=further), "image")
        assert model.config.plans == (built, *further[:2])  # the one with another member is left out
        assert model.plan == built
        model.budget = 6 / 16
        assert model.plan == further[1]
        told = further[1].apply(pool.predictions)
        assert told.exits is not None
        assert run(model, pool).exits.tolist() == told.exits.tolist()
        model.budget = 0.1
        assert model.plan == further[0]
        assert run(model, pool).exits.tolist() == [0] * 24
        model.budget = None
        assert model.plan == built

    def test_a_budget_that_nothing_fits_names_the_least(self, made: Callable[..., Made]) -> None:
        _, further = self.plans(made("image"))
        with pytest.raises(InputError, match=r"takes 0\.0625. Give 0\.063 or more"):
            within_budget(tuple(further[:2]), 0.01)

    def test_without_scored_plans_there_is_none(self, made: Callable[..., Made]) -> None:
        with pytest.raises(InputError, match="no budget to keep to"):
            within_budget((made("image").plan((0.4, 0.5)),), 0.5)


class TestBadInput:
    def test_a_member_that_does_not_load_is_named(self, made: Callable[..., Made], tmp_path: Path) -> None:
        pool = made("image")
        folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
        (folder / "member_1" / "model.safetensors").write_bytes(b"broken")
        with pytest.raises(MemberError, match=r"member 'resnet' of the cascade \(member_1\) cannot be used"):
            load(folder, "image")

    def test_pickled_weights_are_not_opened(self, made: Callable[..., Made], tmp_path: Path) -> None:
        pool = made("image")
        folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
        weights = folder / "member_0" / "model.safetensors"
        weights.rename(weights.with_name("pytorch_model.bin"))
        with pytest.raises(MemberError, match="member 'vit'"):
            load(folder, "image")

    def test_a_member_that_is_gone(self, made: Callable[..., Made], tmp_path: Path) -> None:
        pool = made("image")
        folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
        (folder / "member_2" / "config.json").unlink()
        with pytest.raises(MemberError, match=r"no folder 'member_2' with a config\.json"):
            load(folder, "image")

    def test_a_member_that_answers_nan(self, made: Callable[..., Made], tmp_path: Path) -> None:
        pool = made("image")
        model = load(pool.built(pool.plan((0.4, 0.5)), tmp_path / "c"), "image")
        with torch.no_grad():
            model.members[0].classifier.weight.fill_(float("nan"))
        with pytest.raises(MemberError, match=r"member 'vit'.*NaN"):
            run(model, pool)

    def test_empty_batches_and_wrong_forms(self, made: Callable[..., Made], tmp_path: Path) -> None:
        pool = made("text")
        model = load(pool.built(pool.plan((0.4, 0.5)), tmp_path / "c"), "text")
        with pytest.raises(InputError, match="an empty batch"):
            model([])
        with pytest.raises(InputError, match="got one text"):
            model("a text")
        with pytest.raises(InputError, match=r"raw texts.*; got token ids"):
            model(input_ids=torch.ones(1, 4, dtype=torch.int64))
        with pytest.raises(InputError, match="single texts and pairs stand in one batch"):
            model(["one", ("one", "two")])

    def test_a_model_without_its_members(self) -> None:
        with pytest.raises(InputError, match="Load it with"):
            CascadeForImageClassification(CascadeConfig())


def test_pieces_of_like_length_hold_every_row_once_and_are_at_least_half_full() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 100)
    pieces = like_lengths(lengths)
    assert sorted(np.concatenate(pieces).tolist()) == list(range(100))
    for piece in pieces:
        assert lengths[piece].min() * 2 > lengths[piece].max()


def test_the_answers_of_a_running_cascade_are_log_probabilities(made: Callable[..., Made], tmp_path: Path) -> None:
    pool = made("text")
    logits = run(load(pool.built(pool.plan((0.4, 0.5)), tmp_path / "c"), "text"), pool).logits
    assert logits.dtype == torch.float32
    assert Predictions.from_probs(logits.exp().numpy()).classes == 4


def test_members_run_where_the_config_says_and_where_one_asks_instead(
    made: Callable[..., Made], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    pool = made("text")
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c", devices={"bert": "cpu", "roberta": "cuda:7"})
    assert [place.device for place in CascadeConfig.from_pretrained(folder).places] == ["cpu", "cuda:7", ""]

    def placed(**how: Any) -> list[str]:
        model = load(folder, "text", **how)
        at = [next(member.parameters()).device.type for member in model.members]
        assert {str(device) for device in getattr(model, "hf_device_map", {"": at[0]}).values()} <= set(at)
        return at

    assert placed() == ["cpu"] * 3
    assert [str(w.message) for w in recwarn if "cuda" in str(w.message)] == [
        "member 'roberta' of the cascade is to run on cuda:7, which is not here; it runs on the CPU"
    ]
    assert placed(device_map={"": "meta"}) == ["cpu", "cpu", "meta"]  # for those that have no device of their own
    assert placed(device_map={"": "meta", "bert": "meta"}) == ["meta", "cpu", "meta"]
    assert placed(device_map="meta") == ["meta"] * 3
    with pytest.raises(InputError, match="devices names other, but the members of the cascade are bert"):
        pool.built(pool.plan((0.4, 0.5)), tmp_path / "d", devices={"other": "cpu"})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "gpu"}, "is to run on 'gpu'; expected a device such as cpu, cuda or cuda:1"),
        ({"device": 1}, "device"),
        ({"backend": "tensorflow"}, "is to be run by 'tensorflow'; expected one of torch, onnx"),
        ({"backend": "onnx"}, "says that onnx runs it, but the folder holds a PyTorch checkpoint"),
    ],
)
def test_devices_and_backends_that_are_none_are_refused(
    made: Callable[..., Made], tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    pool = made("text")
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
    raw = json.loads((folder / "config.json").read_text())
    raw["members"][0] |= change
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises((InputError, MemberError), match=told):
        load(folder, "text")
