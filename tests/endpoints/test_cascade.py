"""A cascade whose last member is an endpoint: it runs as the simulation says, also when the endpoint is silent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Committee, Rule
from hf_soups.cascades.running.build_folder import build_cascade
from hf_soups.cascades.running.model import CascadeForSequenceClassification
from hf_soups.cascades.running.stored import read_stored
from hf_soups.errors import DataWarning, InputError, MemberError
from hf_soups.files.endpoint import HOSTS_VARIABLE
from hf_soups.models import endpoint as endpoint_module
from hf_soups.pool import Pool, predict_pool
from tests.endpoints.server import TOKEN, Asked, Said, by_length, endpoint
from tests.endpoints.test_pool import ROWS, everything_written, name_endpoint, rows
from tests.makers.tiny import tiny_bert

__all__ = ["rows"]  # a fixture
BROKEN = Said(503, b"asleep", {"Retry-After": "0"})


@pytest.fixture(scope="module")
def there() -> Iterator[Asked]:
    with endpoint(by_length) as asked:
        yield asked


@pytest.fixture(autouse=True)
def _healthy(there: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    there.always, there.faults = None, []
    monkeypatch.setenv(HOSTS_VARIABLE, "127.0.0.1")  # the token is sent, and must appear nowhere


@pytest.fixture(scope="module")
def pool(there: Asked, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    at = tmp_path_factory.mktemp("pool")
    remote, small = name_endpoint(at / "big", there, cost_per_1000=4.0, attempts=2), tiny_bert(at / "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv(HOSTS_VARIABLE, "127.0.0.1")
        found = predict_pool([small, remote], data=str(rows), out=at / "preds", assume_label_order=True, progress=False)
    assert not found.failed
    return found.pool


@pytest.fixture(scope="module")
def texts(rows: Path) -> list[str]:
    return list(Dataset.from_parquet(str(rows))["text"])


def plan_of(pool: Pool, **changes: Any) -> Plan:
    """Half of the rows leave at the first member, at a threshold in the middle of a gap."""
    sure = np.sort(Committee(Rule()).joined(pool.predictions["small"].log_probs).confidence())
    gaps = np.diff(sure)[ROWS // 3 : -ROWS // 3]
    at = ROWS // 3 + int(gaps.argmax())
    return replace(
        Plan(("small", "big"), (float(sure[at] + sure[at + 1]) / 2,), (0.0, 0.004), unit="dollars"), **changes
    )


def build(pool: Pool, out: Path, fallback: Any = "error", **changes: Any) -> Path:
    return build_cascade(
        plan_of(pool, **changes), pool.members, out, kind="text", label_names=pool.label_names, fallback=fallback,
        assume_label_order=True, max_length=pool.data.max_length,
    )  # fmt: skip


def test_the_running_cascade_leaves_where_the_simulation_does(
    pool: Pool, there: Asked, texts: list[str], tmp_path: Path
) -> None:
    simulated = plan_of(pool).apply(pool.predictions)
    model = CascadeForSequenceClassification.from_pretrained(build(pool, tmp_path / "cascade"))
    before = len(there.rows)
    done = model(texts=texts)
    np.testing.assert_array_equal(done.exits.numpy(), simulated.exits)
    np.testing.assert_allclose(done.logits.numpy(), simulated.log_probs, atol=1e-5)
    np.testing.assert_allclose(done.costs.numpy(), simulated.costs)
    assert 0 < simulated.exits.sum() < ROWS
    assert len(there.rows) - before == simulated.exits.sum()  # what leaves earlier is not sent
    assert done.fell_back is None


def test_the_folder_names_the_endpoint_and_no_secret(
    pool: Pool, texts: list[str], there: Asked, tmp_path: Path
) -> None:
    folder = build(pool, tmp_path / "cascade", fallback="last")
    place = json.loads((folder / "config.json").read_text())["members"][1]
    assert place == {
        "name": "big", "backend": "remote", "dtype": "float32", "fallback": "last",
        "endpoint": {"url": there.url, "task": "text-classification", "timeout": 20.0, "attempts": 2},
    }  # fmt: skip
    assert not (folder / "member_1").exists()
    model = CascadeForSequenceClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    again = CascadeForSequenceClassification.from_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(again(texts=texts[:9]).exits, model(texts=texts[:9]).exits)
    assert TOKEN.encode() not in everything_written(tmp_path, pool.folder)
    assert f"Bearer {TOKEN}" in there.tokens


def test_the_pipeline_marks_rows_that_keep_the_last_answer(
    pool: Pool, there: Asked, texts: list[str], tmp_path: Path
) -> None:
    from transformers import pipeline

    simulated = plan_of(pool).apply(pool.predictions)
    folder = build(pool, tmp_path / "cascade", fallback="last")
    pipe = pipeline("cascade-text-classification", model=str(folder))
    answered = pipe(texts, top_k=2, return_exits=True, batch_size=16)
    assert [row[0]["exit"] for row in answered] == simulated.exits.tolist()
    assert not any(row[0]["fell_back"] for row in answered)
    there.always = BROKEN
    with pytest.warns(DataWarning, match=r"no answer after 2 of 2 tries.*Rows keep the answer of the members before"):
        silent = pipe(texts, top_k=2, return_exits=True, batch_size=16)
    assert [row[0]["fell_back"] for row in silent] == (simulated.exits == 1).tolist()
    assert {row[0]["exit"] for row in silent} == {0}
    small = pool.predictions["small"]
    best = [pool.label_names[i] for i in small.answers]
    assert [row[0]["label"] for row in silent] == best


def test_an_endpoint_that_is_silent_is_left_alone_for_a_while(
    pool: Pool, there: Asked, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CascadeForSequenceClassification.from_pretrained(build(pool, tmp_path / "cascade", fallback="last"))
    there.always, before = BROKEN, there.requests
    with pytest.warns(DataWarning):
        assert model(texts=texts).fell_back.sum() > 10
    assert there.requests - before <= 2 * 4  # two tries each of the four that were in flight
    there.always = None
    with pytest.warns(DataWarning):
        assert model(texts=texts).fell_back.sum() > 10  # still resting
    monkeypatch.setattr(endpoint_module.time, "monotonic", lambda: 1e12)
    assert model(texts=texts).fell_back.sum() == 0


def test_without_a_fallback_silence_is_an_error_that_names_the_member(
    pool: Pool, there: Asked, texts: list[str], tmp_path: Path
) -> None:
    model = CascadeForSequenceClassification.from_pretrained(build(pool, tmp_path / "cascade"))
    there.always = BROKEN
    with pytest.raises(MemberError, match=r"member 'big' of the cascade: http://127.*no answer after 2 of 2 tries"):
        model(texts=texts)


def test_a_wrong_answer_is_an_error_also_where_silence_is_none(
    pool: Pool, there: Asked, texts: list[str], tmp_path: Path
) -> None:
    model = CascadeForSequenceClassification.from_pretrained(build(pool, tmp_path / "cascade", fallback="last"))
    there.always = Said(body=b"<html>")
    with pytest.raises(MemberError, match=r"member 'big' of the cascade: .*no JSON but '<html>'"):
        model(texts=texts)


def test_rows_that_fell_back_may_be_for_a_human(pool: Pool, there: Asked, texts: list[str], tmp_path: Path) -> None:
    folder = build(pool, tmp_path / "cascade", fallback="last", abstain=0.9999)
    model = CascadeForSequenceClassification.from_pretrained(folder)
    there.always = BROKEN
    with pytest.warns(DataWarning):
        done = model(texts=texts)
    np.testing.assert_array_equal(done.abstained, done.fell_back)


def test_answers_in_files_have_the_mark(pool: Pool, there: Asked, rows: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from hf_soups.batch_predict import predict_rows

    folder = build(pool, tmp_path / "cascade", fallback="last")
    there.always = BROKEN
    with pytest.warns(DataWarning):
        found = predict_rows(folder, data=str(rows), out=tmp_path / "out", progress=False)
    table = pq.read_table(tmp_path / "out/part-000000.parquet")
    simulated = plan_of(pool).apply(pool.predictions)
    assert table.column("fell_back").to_pylist() == (simulated.exits == 1).tolist()
    assert found.fell_back == simulated.exits.sum()
    assert found.errors == 0
    with pytest.raises(MemberError, match="member 'big' of the cascade"):  # and the next call goes on
        predict_rows(build(pool, tmp_path / "strict"), data=str(rows), out=tmp_path / "other", progress=False)


def test_a_service_answers_as_the_cascade_does(pool: Pool, there: Asked, texts: list[str], tmp_path: Path) -> None:
    from hf_soups.serving.answering import Answering, as_json
    from hf_soups.serving.asked import Asked as Request
    from hf_soups.serving.served import load_served

    served = load_served(build(pool, tmp_path / "cascade", fallback="last"), device="cpu")
    answered = Answering(served, 1)([(text, None) for text in texts], served.usual)
    simulated = plan_of(pool).apply(pool.predictions)
    assert simulated.exits is not None
    assert [row.exit for row in answered] == simulated.exits.tolist()
    there.always = BROKEN
    with pytest.warns(DataWarning):
        silent = Answering(served, 1)([(text, None) for text in texts], served.usual)
    said = as_json(served, Request((), True), served.plans[served.usual], silent)  # type: ignore[arg-type]
    assert [row[0]["fell_back"] for row in said] == (simulated.exits == 1).tolist()


def test_the_card_says_where_rows_go(pool: Pool, tmp_path: Path) -> None:
    from hf_soups.reporting.cards.card import FolderCard

    folder = build(pool, tmp_path / "cascade", fallback="last")
    text = FolderCard.of(folder).files()["README.md"]
    assert "rows that reach it are sent to 127.0.0.1" in text
    assert "without an answer the row keeps the answer of the members before it" in text
    assert TOKEN not in text


def test_a_cascade_from_the_hub_asks_no_host_that_the_user_did_not_name(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_soups.cascades.running import members
    from hf_soups.cascades.running.config import read_cascade

    config = read_cascade(build(pool, tmp_path / "cascade"))
    monkeypatch.delenv(HOSTS_VARIABLE)
    with pytest.raises(MemberError, match=rf"are sent to 127\.0\.0\.1, where me/mine says.*{HOSTS_VARIABLE}=127"):
        members.load_members(config, "me/mine", only="big")
    monkeypatch.setenv(HOSTS_VARIABLE, "127.0.0.1")
    assert members.load_members(config, "me/mine", only="big")


@pytest.mark.parametrize(
    ("changes", "how", "why"),
    [
        ({"members": ("big", "small")}, {"fallback": "last"}, "'big', the first member, is an endpoint"),
        ({"members": ("small",), "thresholds": (), "costs": (0.0,)}, {"fallback": "last"}, "no member of the plan is"),
        ({}, {"with_code": True}, "an endpoint is asked by hf_soups alone. Build without code"),
        ({}, {"kind": "image"}, "an endpoint for text-classification, but the rows are of kind 'image'"),
    ],
)
def test_what_cannot_be_built_is_said(
    pool: Pool, tmp_path: Path, changes: dict[str, Any], how: dict[str, Any], why: str
) -> None:
    about: dict[str, Any] = {"kind": "text", "label_names": pool.label_names, "assume_label_order": True, **how}
    members = dict(pool.members)
    if how.get("kind") == "image":
        changes = {"members": ("big",), "thresholds": (), "costs": (0.004,)}
    with pytest.raises((InputError, MemberError), match=why):
        build_cascade(plan_of(pool, **changes), members, tmp_path / "out", **about)


def test_a_config_that_mixes_an_endpoint_with_files_is_refused(pool: Pool, tmp_path: Path) -> None:
    folder = build(pool, tmp_path / "cascade")
    config = json.loads((folder / "config.json").read_text())
    for change, why in (
        ({"subfolder": "member_0"}, "an endpoint has the backend 'remote' and no files"),
        ({"backend": "torch"}, "an endpoint has the backend 'remote' and no files"),
        ({"endpoint": {"url": "https://a:b@h", "task": "text-classification"}}, "has a user name or a password"),
        ({"fallback": "never"}, "fallback"),
    ):
        changed = {**config, "members": [config["members"][0], {**config["members"][1], **change}]}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=why):
            read_stored(folder)
