"""A part answered member by member is the part that one process answers at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_soups.batch_predict import predict_rows
from hf_soups.batch_predict.parts import Halfway, PartsJob
from hf_soups.cascades.simulate import run_rows
from hf_soups.errors import DataError, HfSoupsError, InputError
from hf_soups.pool.rows import Unreadable
from tests.makers.fake_parts import FakeRows, SerialParts, answer_serially, fake_job
from tests.makers.small_task import write_images
from tests.makers.tiny import tiny_resnet, tiny_vit


def test_exits_costs_and_errors_are_those_of_the_rule_on_all_rows(tmp_path: Path) -> None:
    job = fake_job(tmp_path / "out", tmp_path / "log", rows=250)
    answer_serially(job)
    found = job.files.read().to_pydict()
    assert found["row_id"] == [f"row {i}" for i in range(250)]
    values = FakeRows(250).values(0, 250)
    unread = [isinstance(value, Unreadable) for value in values]
    assert [error is not None for error in found["error"]] == unread
    readable = np.asarray([i for i, error in enumerate(unread) if not error])
    members = [open_member("cpu") for open_member in job.open_members]
    done = run_rows(
        lambda stage, at: members[stage].answer(readable[at].tolist()).log_probs,
        len(readable),
        job.route.thresholds,
        job.route.rule,
    )
    assert 0 < done.exits.mean() < 1
    assert [found["exit_stage"][i] for i in readable] == done.exits.tolist()
    assert [found["cost"][i] for i in readable] == [(1.0, 11.0)[e] for e in done.exits]
    assert [found["label"][i] for i in readable] == ["abcd"[i] for i in done.log_probs.argmax(axis=1)]
    np.testing.assert_allclose([found["score"][i] for i in readable], np.exp(done.log_probs.max(axis=1)), atol=1e-6)


def test_the_large_member_gets_whole_batches_of_deferred_rows(tmp_path: Path) -> None:
    job = fake_job(tmp_path / "out", tmp_path / "log", rows=1000, size=500)
    answer_serially(job)
    sizes = [int(line.split()[2]) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("large")]
    assert sorted(sizes)[2:] == [job.batch_size] * (len(sizes) - 2)  # but the last one of each part


def test_what_travels_comes_back_as_it_was() -> None:
    known = Halfway((np.ones((3, 2), np.float32), np.zeros((1, 2), np.float32)), {2: "it is empty"})
    back = Halfway.unpacked(known.packed())
    assert back.errors == known.errors
    assert all((a == b).all() for a, b in zip(back.log_probs, known.log_probs, strict=True))


def test_a_model_that_fails_at_every_row_ends_the_job_and_other_rows_are_refused(tmp_path: Path) -> None:
    job = fake_job(tmp_path / "out", tmp_path / "log", rows=300, fails_at=0)
    with pytest.raises(HfSoupsError, match="large: its weights are not a number"):
        answer_serially(job)
    other = PartsJob(job.route, lambda: FakeRows(7), job.open_members, job.files, "", 2, 16)
    with pytest.raises(DataError, match="7 rows are read here, 300 where the command was typed"):
        answer_serially(other)


def test_real_models_answer_the_same_member_by_member_and_each_way_goes_on_with_the_other(tmp_path: Path) -> None:
    from hf_soups.cascades import Plan
    from hf_soups.cascades.running.build_folder import build_cascade
    from hf_soups.pool.predict import predict_pool

    names = dict(enumerate(("top", "middle", "bottom")))
    write_images(tmp_path / "data", train=40, report=31)
    data = str(tmp_path / "data" / "validation.parquet")
    small, big = tiny_resnet(tmp_path / "small", id2label=names), tiny_vit(tmp_path / "big", id2label=names)
    pool = predict_pool([small, big], data=data, out=tmp_path / "preds", progress=False).pool
    sure = float(np.sort(pool.predictions["small"].probs.max(axis=1))[15:17].mean())
    plan = Plan(("small", "big"), (sure,), (1.0, 10.0), unit="macs", temperatures=(1.0, 0.5))
    cascade = build_cascade(plan, pool.members, tmp_path / "cascade", kind=pool.kind, label_names=pool.label_names)
    for name, model in (("cascade", cascade), ("one", big)):
        how = {"data": data, "shard_rows": 10, "batch_size": 4, "progress": False}
        predict_rows(model, out=tmp_path / name / "here", **how)
        done = predict_rows(model, out=tmp_path / name / "there", executor=SerialParts(), **how)
        assert done.answered == 31
        here, there = (pq.read_table(sorted((tmp_path / name / w).glob("*.parquet"))) for w in ("here", "there"))
        assert there.schema == here.schema
        close = ("score", "top_scores")
        assert there.drop_columns(close).equals(here.drop_columns(close))
        np.testing.assert_allclose(there["score"], here["score"], atol=1e-6)
        manifests = [(tmp_path / name / w / "_answers.json").read_text() for w in ("here", "there")]
        assert manifests[0] == manifests[1]
        (tmp_path / name / "here" / "part-000001.parquet").unlink()
        (tmp_path / name / "there" / "part-000002.parquet").unlink()
        assert predict_rows(model, out=tmp_path / name / "here", executor=SerialParts(), **how).answered == 10
        assert predict_rows(model, out=tmp_path / name / "there", **how).answered == 10
    with pytest.raises(InputError, match="are of one machine"):
        predict_rows(big, out=tmp_path / "x", executor=SerialParts(), device="cpu", **how)
