"""The cascade pipelines give what the stock pipelines give, and what the cascade itself says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

import hf_soups  # noqa: F401  # registers the tasks
from hf_soups.cascades.pipelines import applied
from hf_soups.cascades.plan import Plan
from hf_soups.errors import DataError, InputError, MemberError
from tests.cascades.made import NAMES, Made, make

TASKS: Any = {"image": "image-classification", "text": "text-classification", "text-pair": "text-classification"}
ROWS = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    kept: dict[str, Made] = {}

    def one(kind: str) -> Made:
        if kind not in kept:
            kept[kind] = make(kind, tmp_path_factory.mktemp(kind), rows=ROWS)
        return kept[kind]

    return one


@pytest.fixture(scope="module")
def pipes(made: Callable[[str], Made], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    kept: dict[str, Any] = {}

    def one(kind: str) -> Any:
        if kind not in kept:
            pool = made(kind)
            plan = pool.plan((0.4, 0.5), temperatures=(0.1, 0.13, 0.07))
            folder = pool.built(plan, tmp_path_factory.mktemp("cascades") / kind, max_length=64)
            kept[kind] = pipeline(f"cascade-{TASKS[kind]}", model=str(folder), device="cpu")  # type: ignore[call-overload]
        return kept[kind]

    return one


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_stock_image_pipeline_takes_a_cascade_too(
    made: Callable[[str], Made], pipes: Callable[[str], Any], batch_size: int
) -> None:
    ours, images = pipes("image"), made("image").inputs
    stock = pipeline("image-classification", model=ours.model.name_or_path, device="cpu")
    assert type(stock).__name__ == "ImageClassificationPipeline"
    expected = ours(images, batch_size=batch_size, top_k=3)
    found = stock(images, batch_size=batch_size, top_k=3)
    for one, other in zip(found, expected, strict=True):
        assert [answer["label"] for answer in one] == [answer["label"] for answer in other]
        np.testing.assert_allclose([a["score"] for a in one], [a["score"] for a in other], atol=1e-6)
    assert stock(images[0], top_k=1) == found[0][:1]


def same_answers(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        one, other = (row if isinstance(row, list) else [row] for row in (one, other))
        assert [answer["label"] for answer in one] == [answer["label"] for answer in other]
        np.testing.assert_allclose([a["score"] for a in one], [a["score"] for a in other], atol=1e-6)


@pytest.mark.parametrize("kind", ["text", "text-pair"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_stock_text_pipeline_takes_a_cascade_too(
    made: Callable[[str], Made], pipes: Callable[[str], Any], kind: str, batch_size: int
) -> None:
    ours, rows = pipes(kind), made(kind).inputs
    stock = pipeline("text-classification", model=ours.model.name_or_path, device="cpu")
    assert type(stock).__name__ == "TextClassificationPipeline"
    for how in ({"top_k": 3}, {"top_k": None}, {}):
        expected = ours(rows, batch_size=batch_size, **how)
        same_answers(stock(rows, batch_size=batch_size, truncation=True, **how), expected)
    same_answers([stock(rows[0])] if kind == "text-pair" else stock(rows[0]), expected[:1])
    same_answers(stock(row for row in rows), expected)


def test_the_stock_text_pipeline_says_what_a_cascade_does_not_take(pipes: Callable[[str], Any]) -> None:
    single, pairs = (
        pipeline("text-classification", model=pipes(kind).model.name_or_path, device="cpu")
        for kind in ("text", "text-pair")
    )
    with pytest.raises(InputError, match="takes single texts, not pairs"):
        single({"text": "one", "text_pair": "two"})
    with pytest.raises(InputError, match="takes pairs: give"):
        pairs(["one", "two"])
    with pytest.raises(ValueError, match=r"max_length: a cascade tokenises as it did"):
        single("one", max_length=3)
    with pytest.raises(ValueError, match="truncation=False"):
        single("one", truncation=False)
    with pytest.raises(ValueError, match="expected a text"):
        single([3])


def test_a_ready_model_of_texts_with_its_tokenizer_does_so_too(
    made: Callable[[str], Made], pipes: Callable[[str], Any]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = pipes("text").model.name_or_path
    model, reader = (auto.from_pretrained(place) for auto in (AutoModelForSequenceClassification, AutoTokenizer))
    rows = made("text").inputs
    assert model(**reader(rows, padding=True, truncation=True, return_tensors="pt")).logits.shape == (len(rows), 4)
    stock = pipeline("text-classification", model=model, tokenizer=reader, device="cpu")
    same_answers(stock(rows), pipes("text")(rows))


def test_a_stock_pipeline_of_texts_can_be_saved_and_loaded(pipes: Callable[[str], Any], tmp_path: Path) -> None:
    pipeline("text-classification", model=pipes("text").model.name_or_path, device="cpu").save_pretrained(tmp_path)
    again = pipeline("text-classification", model=str(tmp_path), device="cpu")
    same_answers(again("a cat"), [pipes("text")("a cat")])


def test_a_ready_model_with_the_processor_does_so_too(made: Callable[[str], Made], pipes: Callable[[str], Any]) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    place = pipes("image").model.name_or_path
    model, processor = (auto.from_pretrained(place) for auto in (AutoModelForImageClassification, AutoImageProcessor))
    stock = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    image = made("image").inputs[0]
    assert stock(image)[0]["label"] == pipes("image")(image)[0]["label"]


def single(pool: Made, folder: Path) -> tuple[Any, Any]:
    """A cascade of the first member alone, and the stock pipeline of that member."""
    name = next(iter(pool.members))
    out = pool.built(Plan((name,), (), (1.0,)), folder, max_length=64)
    how: Any = {"device": "cpu"}
    return (
        pipeline(f"cascade-{TASKS[pool.kind]}", model=str(out), **how),
        pipeline(TASKS[pool.kind], model=pool.members[name].source, **how),
    )


def assert_same(got: Any, wanted: Any) -> None:
    """The same nesting, keys and labels; scores to float32's rounding."""
    assert type(got) is type(wanted)
    if isinstance(wanted, list):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, dict):
        assert list(got) == list(wanted)
        for key in wanted:
            assert_same(got[key], wanted[key])
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, abs=1e-5)
    else:
        assert got == wanted


@pytest.mark.parametrize(
    "how",
    [{}, {"top_k": 2}, {"top_k": 100}, {"top_k": 1}, {"batch_size": 3}, {"batch_size": 4, "num_workers": 1}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["image", "text", "text-pair"])
def test_a_cascade_of_one_member_answers_as_the_stock_pipeline(
    made: Callable[[str], Made], tmp_path: Path, kind: str, how: dict[str, Any]
) -> None:
    pool = made(kind)
    cascade, stock = single(pool, tmp_path / "c")
    assert cascade.task == stock.task
    for inputs in (pool.inputs[0], pool.inputs[:1], pool.inputs[:5]):
        assert_same(cascade(inputs, **how), stock(inputs, **how))
    for function in ("softmax",):
        one: dict[str, Any] = {**how, "function_to_apply": function}
        assert_same(cascade(pool.inputs[0], **one), stock(pool.inputs[0], **one))
    if kind != "image":
        assert_same(cascade(pool.inputs[:3], top_k=None), stock(pool.inputs[:3], top_k=None))


@pytest.mark.parametrize("kind", ["image", "text", "text-pair"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_and_exits_are_the_simulations(
    made: Callable[[str], Made], pipes: Callable[[str], Any], kind: str, batch_size: int
) -> None:
    pool, pipe = made(kind), pipes(kind)
    told = pipe.model.config.built.apply(pool.predictions)
    answers = pipe(pool.inputs, batch_size=batch_size, top_k=1, return_exits=True)
    assert [a[0]["exit"] for a in answers] == told.exits.tolist()
    assert [a[0]["cost"] for a in answers] == told.costs.tolist()
    assert [a[0]["label"] for a in answers] == [NAMES[i] for i in told.answers]
    assert [a[0]["members"] for a in answers] == [list(pool.members)[: i + 1] for i in told.exits]
    assert [a[0]["score"] for a in answers] == pytest.approx(told.probs.max(axis=1).tolist(), abs=1e-5)
    assert set(told.exits.tolist()) == {0, 1, 2}


class TestForms:
    def test_of_images(self, made: Callable[[str], Made], pipes: Callable[[str], Any], tmp_path: Path) -> None:
        pool, pipe = made("image"), pipes("image")
        images = [image.convert("RGB") for image in pool.inputs[:4]]
        wanted = pipe(images, batch_size=2)
        for i, image in enumerate(images):
            image.save(tmp_path / f"{i}.png")
        paths = [str(tmp_path / f"{i}.png") for i in range(4)]
        data = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
        column: Any = KeyDataset(data, "image")
        assert pipe(paths, batch_size=2) == wanted
        assert pipe([np.asarray(image) for image in images], batch_size=2) == wanted
        assert pipe([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images], batch_size=2) == wanted
        assert list(pipe((image for image in images), batch_size=2)) == wanted
        assert list(pipe(column, batch_size=2)) == wanted
        assert pipe(paths[0]) == pipe(images[0])
        assert pipe(images, batch_size=2, num_workers=2) == wanted

    def test_of_texts(self, made: Callable[[str], Made], pipes: Callable[[str], Any]) -> None:
        pool, pipe = made("text"), pipes("text")
        wanted = pipe(pool.inputs, batch_size=3)
        assert list(pipe((text for text in pool.inputs), batch_size=3)) == wanted
        column: Any = KeyDataset(datasets.Dataset.from_dict({"text": pool.inputs}), "text")
        assert list(pipe(column, batch_size=3)) == wanted
        assert pipe([{"text": text} for text in pool.inputs], batch_size=3) == wanted
        assert_same(pipe(pool.inputs, batch_size=3, num_workers=2), wanted)

    def test_of_pairs(self, made: Callable[[str], Made], pipes: Callable[[str], Any]) -> None:
        pool, pipe = made("text-pair"), pipes("text-pair")
        one = pool.inputs[0]
        assert pipe([[[one["text"], one["text_pair"]]]])[0] == pipe(one)


def test_budget_changes_members_of_a_pipeline_that_exists(made: Callable[[str], Made], tmp_path: Path) -> None:
    pool = made("image")
    cheap = Plan(("resnet",), (), (4.0,), score=0.5, average_cost=4.0, unit="macs")
    pipe: Any = pipeline(  # type: ignore[call-overload]
        "cascade-image-classification",
        model=str(pool.built(pool.plan((0.4, 0.5)), tmp_path / "c", frontier=[cheap])),
        device="cpu",
    )
    pipe.model.budget = 0.5
    answers = pipe(pool.inputs, batch_size=4, return_exits=True)
    assert {tuple(a["members"]) for row in answers for a in row} == {("resnet",)}
    told = cheap.apply(pool.predictions)
    assert [row[0]["label"] for row in answers] == [NAMES[i] for i in told.answers]


def test_dtype_reaches_the_members(made: Callable[[str], Made], tmp_path: Path) -> None:
    pool = made("image")
    folder = str(pool.built(pool.plan((0.4, 0.5)), tmp_path / "c"))
    pipe: Any = pipeline("cascade-image-classification", model=folder, device=-1, dtype=torch.bfloat16)  # type: ignore[call-overload]
    assert {member.dtype for member in pipe.model.members} == {torch.bfloat16}
    assert len(pipe(pool.inputs[0])) == 4


def test_saving_a_pipeline_writes_no_code(pipes: Callable[[str], Any], tmp_path: Path) -> None:
    pipes("image").save_pretrained(tmp_path / "c")
    assert "custom_pipelines" not in (tmp_path / "c" / "config.json").read_text()
    assert not list((tmp_path / "c").glob("*.py"))
    again: Any = pipeline("cascade-image-classification", model=str(tmp_path / "c"), device="cpu")  # type: ignore[call-overload]
    image = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
    assert again(image) == pipes("image")(image)


class TestEvaluators:
    @pytest.mark.parametrize("kind", ["image", "text", "text-pair"])
    def test_take_the_pipeline(self, made: Callable[[str], Made], pipes: Callable[[str], Any], kind: str) -> None:
        import evaluate

        from hf_soups.evaluate_metrics import Accuracy

        pool, pipe = made(kind), pipes(kind)
        told = pipe.model.config.built.apply(pool.predictions)
        data = pool.split.rows.add_column("label", pool.split.labels.tolist())
        columns = {"image": {}, "text": {"input_column": "one"}}.get(
            kind, {"input_column": "one", "second_input_column": "two"}
        )
        mapping = {name: i for i, name in enumerate(NAMES)}
        got = evaluate.evaluator(TASKS[kind]).compute(
            pipe, data=data, metric=Accuracy(), label_mapping=mapping, **columns
        )
        assert got["accuracy"] == float((told.answers == pool.split.labels).mean())


class TestBadInput:
    @pytest.mark.parametrize("kind", ["image", "text"])
    @pytest.mark.parametrize("nothing", [[], (), None])
    def test_nothing(self, pipes: Callable[[str], Any], kind: str, nothing: Any) -> None:
        with pytest.raises(InputError, match="nothing to classify"):
            pipes(kind)(nothing)

    def test_broken_images(self, pipes: Callable[[str], Any], tmp_path: Path) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
        with pytest.raises(DataError, match=r"the image .*broken\.jpg cannot be read"):
            pipes("image")([str(tmp_path / "broken.jpg")])
        with pytest.raises(DataError, match=r"the image .*gone\.jpg cannot be read"):
            pipes("image")(str(tmp_path / "gone.jpg"))
        with pytest.raises(DataError, match="an array of float64; expected 8-bit values"):
            pipes("image")(np.zeros((8, 8, 3)))
        with pytest.raises(DataError, match="given as int cannot be read"):
            pipes("image")([3])

    def test_wrong_texts(self, pipes: Callable[[str], Any]) -> None:
        with pytest.raises(InputError, match="expected a text"):
            pipes("text")([3])
        with pytest.raises(InputError, match="takes single texts, not pairs"):
            pipes("text")({"text": "one", "text_pair": "two"})
        with pytest.raises(InputError, match="takes pairs: give"):
            pipes("text-pair")("one")
        with pytest.raises(InputError, match=r"max_length: a cascade tokenises as it did"):
            pipes("text")("one", max_length=3)
        with pytest.raises(InputError, match="truncation=False"):
            pipes("text")("one", truncation=False)

    def test_an_unknown_function(self) -> None:
        with pytest.raises(InputError, match="expected one of softmax, sigmoid, none"):
            applied(np.zeros(2, np.float32), "tanh")

    def test_a_model_that_is_no_cascade(self, made: Callable[[str], Made]) -> None:
        source = made("image").members["vit"].source
        with pytest.raises(InputError, match=r"is no cascade\. Use the task 'image-classification'"):
            pipeline("cascade-image-classification", model=source)  # type: ignore[call-overload]

    def test_a_member_that_does_not_load_is_one_clear_error(self, made: Callable[[str], Made], tmp_path: Path) -> None:
        pool = made("image")
        folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
        (folder / "member_1" / "model.safetensors").unlink()
        with pytest.raises(MemberError, match="member 'resnet' of the cascade"):
            pipeline("cascade-image-classification", model=str(folder))  # type: ignore[call-overload]


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    ["import hf_soups\nfrom transformers import pipeline", "from transformers import pipeline\nimport hf_soups"],
    ids=["hf_soups first", "transformers first"],
)
def test_the_task_is_there_in_either_order_of_imports(
    made: Callable[[str], Made], tmp_path: Path, imports: str
) -> None:
    pool = made("text")
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
    code = f"{imports}\nprint(pipeline('cascade-text-classification', model={str(folder)!r}, batch_size=64)('a cat'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'label'" in done.stdout


# --- batches read ahead


def test_batches_come_in_order_and_each_is_read_before_the_one_in_front_is_answered() -> None:
    from threading import Event

    from hf_soups.cascades.pipelines import Ahead

    read: list[Event] = [Event() for _ in range(5)]

    def rows() -> Any:
        for number, event in enumerate(read):
            event.set()
            yield number

    got = []
    for number in Ahead(rows()):
        assert number + 1 == len(read) or read[number + 1].wait(20)  # nobody asked for it yet
        got.append(number)
    assert got == list(range(5))


def test_a_batch_that_cannot_be_read_is_an_error_at_its_turn_and_the_next_is_there() -> None:
    from hf_soups.cascades.pipelines import Ahead

    class Rows:
        at = -1

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            self.at += 1
            if self.at == 1:
                raise DataError("row 1 is damaged")
            if self.at == 3:
                raise StopIteration
            return self.at

    batches = iter(Ahead(Rows()))  # type: ignore[arg-type]
    assert next(batches) == 0
    with pytest.raises(DataError, match="row 1 is damaged"):
        next(batches)
    assert next(batches) == 2
    assert next(batches, None) is None


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_list_in_batches_is_answered_as_a_generator_which_is_not_read_ahead(
    made: Callable[[str], Made], pipes: Callable[[str], Any], kind: str
) -> None:
    inputs = made(kind).inputs
    asked: list[int] = []

    def rows() -> Any:
        for number, row in enumerate(inputs):
            asked.append(number)
            yield row

    listed = pipes(kind)(inputs, batch_size=3, return_exits=True)
    streamed = pipes(kind)(rows(), batch_size=3, return_exits=True)
    assert next(iter(streamed)) == listed[0]
    assert max(asked) <= 2
    assert list(pipes(kind)((row for row in inputs), batch_size=3, return_exits=True)) == listed
