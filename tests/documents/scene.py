"""The scene on which the documents' commands run: every folder they name, with tiny models and a few rows of data.

`build` makes it once; each page plays on a copy. A page says in its source which results of earlier pages it takes as
given: <!-- given: soups/mrpc my-cascade -->.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

from hf_soups.recipe import Recipe, load_recipe
from tests.makers.small_task import image_recipe, text_recipe, write_texts
from tests.makers.tiny import IMAGE_SIZE, PIECES, tiny_bert, tiny_clip, tiny_efficientnet, tiny_vit

ROOT = Path(__file__).parents[2]
RUNS = {"learning_rate": {"choice": [2e-3, 3e-3, 4e-3]}}
CLASSES = ["top", "middle", "bottom"]


def build(scene: Path) -> None:
    """Everything, in `scene`, which is the working directory: folders are named as on the pages."""
    from hf_soups.finetune import finetune

    write_texts(Path("data"))
    shutil.copy("data/validation.csv", "held-out.csv")
    finetune(text_recipe(Path("data"), tiny_bert("untrained")), "trained", progress=False)
    plain(Path("trained"), Path("bert"))  # knows the task: so does whatever is fine-tuned from it at any rate
    about = {"head": {"init": "keep"}, "train": {"epochs": 1}, "sweep": {"method": "grid", "space": RUNS}}
    values = text_recipe(Path("data"), Path("bert"), name="", **about).model_dump(mode="json", exclude_none=True)
    del values["name"]
    for path in ("recipe.yaml", "recipes/glue/mrpc-bert-base.yaml"):
        write(Path(path), values)
    sweep_of(load_recipe("recipes/glue/mrpc-bert-base.yaml"), Path("runs/mrpc"))
    for i, name in enumerate(("CKPT_A", "CKPT_B", "org/ckpt-c", "LARGE")):
        plain(Path(f"runs/mrpc/run_{i % 3:02d}"), Path(name))
    plain(Path("runs/mrpc/start"), Path("START"))
    tiny_bert(scene / "small-bert", hidden_size=16, num_hidden_layers=1)
    finetune(text_recipe(Path("data"), Path("small-bert")), "small", progress=False)
    plain(Path("small"), Path("SMALL"))
    forget_words(Path("SMALL"))
    for step in (10, 20):
        plain(Path(f"runs/mrpc/run_0{step // 10}"), Path(f"trainer_output/checkpoint-{step}"))
    shifts(values)
    images()
    shutil.copytree(ROOT / "examples", "examples")


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def plain(run: Path, out: Path) -> None:
    """A run's checkpoint without its record."""
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("run.json", "predictions"))


def forget_words(checkpoint: Path, share: int = 2) -> None:
    """Every other word is unknown to this model: easy rows are left, and hard ones, which it is not sure of."""
    name, weights = "bert.embeddings.word_embeddings.weight", load_file(checkpoint / "model.safetensors")
    words = weights[name][PIECES.index("[MASK]") + 1 :]
    words[::share] = weights[name][PIECES.index("[UNK]")]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


def sweep_of(recipe: Recipe, out: Path) -> None:
    """A finished sweep, fine-tuned in this process: the same command finds nothing left to do."""
    from hf_soups.finetune import finetune
    from hf_soups.sweep.run import make_shared, prepare

    plan = prepare(recipe, out)
    make_shared(recipe, out)
    for run in plan:
        finetune(run.recipe(recipe), out / run.name, start=out / "start", cache=out / "cache", progress=False)


def shifts(values: dict[str, Any]) -> None:
    """A data set with configs, whose texts are of other lengths, and a recipe that names it as a shift."""
    books = Path("multi_domain_sentiment/books")
    write_texts(books, report=60)
    (books / "validation.csv").rename(books / "test.csv")
    about = {"configs": [{"config_name": "books", "data_files": [{"split": "test", "path": "books/test.csv"}]}]}
    (books.parent / "README.md").write_text(f"---\n{yaml.safe_dump(about)}---\n")
    shift = {"path": "multi_domain_sentiment", "config": "books", "split": "test"}
    write(Path("other.yaml"), {**values, "task": {**values["task"], "shifts": {"shop": shift}}})
    shutil.copytree("runs/mrpc", "runs/sst2")


def images() -> None:
    """Images in the layout of a data set, and models that answer them."""
    from datasets import load_dataset

    from hf_soups.finetune import finetune

    data = Path("imagenet-1k")
    bands(data)
    shutil.copytree(data, "cifar10")
    Path("cifar10/validation.parquet").rename("cifar10/test.parquet")
    for name, model in (
        ("tiny", tiny_vit("small-vit", hidden_size=16, num_hidden_layers=1)),
        ("base", tiny_vit("vit")),
    ):
        finetune(image_recipe(data, model), f"trained-{name}", progress=False)
        plain(Path(f"trained-{name}"), Path(f"org/vit-{name}"))
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    tiny_efficientnet("org/efficientnet-b0", **names)
    tiny_clip("CLIP")
    about = {"head": {"init": "keep"}, "train": {"epochs": 1}, "sweep": {"runs": 2}}
    write(
        Path("images.yaml"),
        image_recipe(data, Path("org/vit-base"), **about).model_dump(mode="json", exclude_none=True),
    )
    sweep_of(load_recipe("images.yaml"), Path("runs/mysweep"))
    elsewhere(load_dataset(str(data), split="validation")["label"])
    folder = Path("folder/of/images")
    folder.mkdir(parents=True)
    for i, row in enumerate(load_dataset(str(data), split="validation").select(range(6))):
        row["image"].save(folder / f"{i}.jpg")
    shutil.copy(folder / "0.jpg", "cat.jpg")


def elsewhere(labels: list[int]) -> None:
    """What an LLM's API and an SVM answered on the rows of the images' pool, and the true labels."""
    random = np.random.default_rng(2)
    probs = random.dirichlet(np.ones(3), len(labels)) / 2 + np.eye(3)[labels] / 2
    lines = [",".join(map(str, (i, *row))) for i, row in enumerate(probs.tolist())]
    Path("llm.csv").write_text("\n".join([",".join(["id", *CLASSES]), *lines, ""]))
    Path("gold.csv").write_text("id,label\n" + "".join(f"{i},{CLASSES[label]}\n" for i, label in enumerate(labels)))
    np.save("svm.npy", probs * 0.9 + 0.1 / 3)


def bands(data: Path) -> None:
    """Noise with a band whose place is the class, from bright to hardly there: images that are easy and hard."""
    from datasets import ClassLabel, Dataset, Features, Image

    data.mkdir()
    features = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
    for name, rows, seed in (("train", 150, 0), ("validation", 90, 1)):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 3, rows)
        images = random.integers(0, 120, (rows, IMAGE_SIZE, IMAGE_SIZE, 3))
        for image, label, light in zip(images, labels, random.uniform(0, 120, rows), strict=True):
            image[label * 11 : label * 11 + 10] += int(light)
        columns = {"image": list(images.astype(np.uint8)), "label": labels.tolist()}
        Dataset.from_dict(columns, features=features).to_parquet(data / f"{name}.parquet")


# What a page may take as given.


def soups(task: str) -> None:
    from hf_soups.cooking import cook

    cook([f"runs/{task}"], methods=("uniform", "greedy"), out=Path(f"soups/{task}"))


def text_pool() -> None:
    from hf_soups.pool.predict import predict_pool
    from hf_soups.pool_jobs import search_pool

    for split in ("select", "report"):
        predict_pool(["SMALL", "LARGE"], recipe="recipe.yaml", split=split, out=f"preds/{split}")
    search_pool(Path("preds/select"), report="preds/report")


def text_cascade() -> None:
    from hf_soups.pool_jobs import build_from

    text_pool()
    build_from("preds/select/frontier.json#0", Path("my-cascade"))


GIVEN: dict[str, Callable[[], None]] = {
    "soups/mrpc": partial(soups, "mrpc"),
    "soups/sst2": partial(soups, "sst2"),
    "preds/select": text_pool,
    "my-cascade": text_cascade,
}
