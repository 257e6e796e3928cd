"""Batch predict with a cascade: rows leave, row for row, where the plan says on the stored predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hf_soups.batch_predict import predict_rows, print_result
from hf_soups.cascades import Plan
from hf_soups.cascades.running.build_folder import build_cascade
from hf_soups.cli import app
from hf_soups.errors import InputError
from hf_soups.pool.predict import predict_pool
from tests.makers.small_task import write_images
from tests.makers.tiny import tiny_bert, tiny_resnet, tiny_vit

NAMES = ("top", "middle", "bottom")


def test_exits_answers_and_costs_are_those_of_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "data", train=40, report=31)
    data, called = str(tmp_path / "data" / "validation.parquet"), {"label2id": {n: i for i, n in enumerate(NAMES)}}
    small = tiny_resnet(tmp_path / "small", id2label=dict(enumerate(NAMES)), **called)
    big = tiny_vit(tmp_path / "big", id2label=dict(enumerate(NAMES[::-1])))
    pool = predict_pool([small, big], data=data, out=tmp_path / "preds", progress=False).pool
    sure = np.sort(pool.predictions["small"].probs.max(axis=1))[
        15:17
    ].mean()  # no row's own: batches differ in rounding
    costs = tuple(pool.costs()[name].value for name in ("small", "big"))
    plan = Plan(("small", "big"), (float(sure),), costs, unit="macs")
    cascade = build_cascade(plan, pool.members, tmp_path / "cascade", kind=pool.kind, label_names=pool.label_names)
    wanted = plan.apply(pool.predictions)
    assert wanted.exits is not None
    assert 0 < wanted.exits.mean() < 1

    result = predict_rows(cascade, data=data, out=tmp_path / "out", shard_rows=10, batch_size=4, progress=False)
    told = pq.read_table(sorted((tmp_path / "out").glob("*.parquet"))).to_pydict()
    assert told["row_id"] == list(range(31))
    np.testing.assert_array_equal(told["exit_stage"], wanted.exits)
    np.testing.assert_array_equal(told["members_used"], wanted.exits + 1)
    np.testing.assert_array_equal(told["cost"], wanted.costs)  # type: ignore[arg-type]
    assert told["label"] == [NAMES[i] for i in wanted.answers]
    np.testing.assert_allclose(told["score"], wanted.probs.max(axis=1), atol=1e-5)
    assert (result.unit, result.exits) == ("macs", tuple(np.bincount(wanted.exits)))
    print_result(result)
    assert "average cost" in capsys.readouterr().out

    apart: dict[str, Any] = {"device": {"small": "cpu"}, "dtype": {"small": "float32", "big": "float32"}}
    predict_rows(cascade, data=data, out=tmp_path / "apart", shard_rows=10, batch_size=4, progress=False, **apart)
    again = pq.read_table(sorted((tmp_path / "apart").glob("*.parquet"))).to_pydict()
    assert again == told
    command = ["predict", str(cascade), "--data", data, "--out", str(tmp_path / "apart"), "--shard-rows", "10"]
    named = ["--batch-size", "4", "--device", "small=cpu", "--dtype", "small=float32, big=float32"]
    done = CliRunner().invoke(app, [*command, *named])
    assert done.exit_code == 0, done.exception
    assert "31 rows" in done.output
    assert "0 answered now" in done.output  # the same members, devices and precisions: nothing to do again
    all_alike = ["--out", str(tmp_path / "half"), "--dtype", "bfloat16", "--device", "cpu"]  # of every member
    assert CliRunner().invoke(app, [*command[:4], *all_alike, "--shard-rows", "10"]).exit_code == 0
    half = pq.read_table(sorted((tmp_path / "half").glob("*.parquet"))).to_pydict()
    assert 0 < np.abs(np.subtract(half["score"], told["score"])).max() < 0.1
    for value, why in (("small=", "is not understood; expected one value"), ("large=cpu", "the members .* are small")):
        wrong = [*command[:5], str(tmp_path / "wrong"), "--device", value]
        with pytest.raises(InputError, match=why):
            CliRunner().invoke(app, wrong, catch_exceptions=False)
    of_a_pool = ["predict", str(small), *command[2:4], "--out", str(tmp_path / "pool"), "--dtype", "small=bfloat16"]
    with pytest.raises(InputError, match=r"by member \(name=value\) are for one cascade"):
        CliRunner().invoke(app, of_a_pool, catch_exceptions=False)
    with pytest.raises(InputError, match="it holds answers with dtypes"):
        predict_rows(cascade, data=data, out=tmp_path / "out", shard_rows=10, progress=False, dtype={"big": "bfloat16"})
    with pytest.raises(InputError, match="device_map names large, but the members of the cascade are small, big"):
        predict_rows(cascade, data=data, out=tmp_path / "large", progress=False, device={"large": "cpu"})
    with pytest.raises(InputError, match="one model, so there are no members to name"):
        predict_rows(small, data=data, out=tmp_path / "other", progress=False, device={"small": "cpu"})
    with pytest.raises(InputError, match="a budget is for cascades; this is a single classifier"):
        predict_rows(small, data=data, out=tmp_path / "other", budget=0.5, progress=False)


def test_a_cascade_of_texts_does_not_take_images(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path / "bert", id2label={0: "no", 1: "yes"})
    from hf_soups.pool import Member

    member = Member("bert", str(bert))
    plan = Plan(("bert",), (), (1.0,))
    cascade = build_cascade(plan, {"bert": member}, tmp_path / "c", kind="text", label_names=("no", "yes"))
    write_images(tmp_path / "data", train=5, report=5)
    with pytest.raises(InputError, match=r"no text column|kind 'text'"):
        predict_rows(cascade, data=str(tmp_path / "data" / "validation.parquet"), out=tmp_path / "o", progress=False)
