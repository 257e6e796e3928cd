"""One CNN at two input sizes is two members: asked, searched, stored once, and run where the search said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import pipeline

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.running.build_folder import build_cascade
from hf_soups.pool import Pool
from hf_soups.pool.predict import predict_pool
from hf_soups.pool_jobs import build_from, search_pool
from tests.makers.small_task import write_images
from tests.makers.tiny import tiny_clip_tower, tiny_efficientnet, tiny_mobilenet_v2, tiny_resnet

LABELS = ("top", "middle", "bottom")
IDS = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
ROWS = 24
CLOSE = 1e-5  # a batch of another shape is summed in another order


def tower_with_head(path: Path, **_: Any) -> Path:
    """A CLIP classifier with a random head; its positions are interpolated for the larger size."""
    from hf_soups.models.clip import Clip

    base = tiny_clip_tower(path / "base")
    Clip().load_with_new_head(base, label_names=LABELS).model.save_pretrained(path)
    Clip().processor(base).save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=[tiny_resnet, tiny_efficientnet, tiny_mobilenet_v2, tower_with_head])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    build: Callable[..., Path] = request.param
    folder = tmp_path_factory.mktemp(build.__name__)
    write_images(folder / "data", train=1, report=ROWS)
    model = build(folder / "model", **IDS)
    found = predict_pool(
        [f"small={model}", f"large={model}@64"], data=str(folder / "data" / "validation.parquet"), batch_size=8,
        out=folder / "preds", progress=False,
    )  # fmt: skip
    assert found.failed == {}
    return found.pool


def images(pool: Pool) -> list[Any]:
    rows = Dataset.from_parquet(pool.data.path, cache_dir=str(pool.folder / "cache"))
    return [image.convert("RGB") for image in rows["image"]]


def test_the_larger_input_costs_more_and_answers_otherwise(pool: Pool) -> None:
    small, large = pool.members["small"], pool.members["large"]
    assert (small.image_size, large.image_size) == (None, 64)
    assert small.macs is not None
    assert large.macs is not None
    assert 3 < large.macs / small.macs < 6  # four times the pixels, and of attention more
    assert small.parameters == large.parameters or large.parameters - small.parameters == 48 * 32  # 48 positions more
    assert np.abs(pool.predictions["small"].log_probs - pool.predictions["large"].log_probs).max() > 100 * CLOSE


def test_the_pipeline_leaves_where_the_simulation_does_and_stores_one_model(pool: Pool, tmp_path: Path) -> None:
    confidence = np.sort(pool.predictions["small"].probs.max(axis=1))
    at = ROWS // 4 + int(np.diff(confidence)[ROWS // 4 : -ROWS // 4].argmax())
    assert confidence[at + 1] - confidence[at] > 2 * CLOSE
    threshold = float(confidence[at] + confidence[at + 1]) / 2
    plan = Plan(("small", "large"), (threshold,), (1.0, 4.0), unit="macs")
    told = plan.apply(dict(pool.predictions))
    out = build_cascade(plan, pool.members, tmp_path / "c", kind="image", label_names=LABELS)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["member_0"]
    pipe = pipeline("cascade-image-classification", model=str(out), device="cpu")  # type: ignore[call-overload]
    logits = pipe.model(images=images(pool))
    assert logits.exits.tolist() == told.exits.tolist()
    assert set(told.exits.tolist()) == {0, 1}
    np.testing.assert_allclose(logits.logits.softmax(dim=1), told.probs, atol=10 * CLOSE)
    assert {row["label"] for row in pipe(images(pool)[0], top_k=3)} == set(LABELS)


@pytest.mark.slow
def test_what_a_search_finds_is_built(pool: Pool, tmp_path: Path) -> None:
    found = search_pool(pool.folder, out=tmp_path / "found")
    out = build_from(f"{found.path}#0", tmp_path / "c", pool=pool.folder)
    assert pipeline("cascade-image-classification", model=str(out), device="cpu")(images(pool)[:2])  # type: ignore[call-overload]
