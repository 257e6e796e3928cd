"""`hf-soups watch` and the report's section, on answers that `predict` wrote."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hf_soups.batch_predict import predict_rows
from hf_soups.batch_predict.outputs import read_answers
from hf_soups.cascades import Plan
from hf_soups.cascades.frontier import save_frontier
from hf_soups.cascades.running.model import CascadeForSequenceClassification
from hf_soups.cascades.stages import read_stages
from hf_soups.cli import app
from hf_soups.errors import InputError
from hf_soups.pool import read_pool
from hf_soups.pool.predict import predict_pool
from hf_soups.pool_jobs import build_from, search_pool
from hf_soups.reporting.drift import watch
from hf_soups.reporting.page.page import page_for
from tests.makers.tiny import tiny_bert, tiny_distilbert

NAMES = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade of texts that defers a part of its rows, and its answers to rows like those it was chosen on."""
    folder = tmp_path_factory.mktemp("place")
    words = ["good", "bad", "film", "dull", "long", "plot", "actor", "the", "a", "not"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(400)]
    rows = pa.table({"text": texts, "label": rng.integers(0, 2, 400)})
    pq.write_table(rows.slice(0, 200), folder / "select.parquet")
    pq.write_table(rows.slice(200), folder / "new.parquet")
    models = [
        tiny_bert(folder / "small", labels=2, **NAMES),
        tiny_distilbert(folder / "big", labels=2, seed=1, **NAMES),
    ]
    data = str(folder / "select.parquet")
    predict_pool(models, data=data, out=folder / "preds", progress=False, label_names=("no", "yes"))
    found = search_pool(folder / "preds", folds=0)
    save_frontier(replace(found.frontier, plans=(half_deferred(folder / "preds"),)), folder / "preds" / "half.json")
    build_from(f"{folder}/preds/half.json#0", folder / "cascade")
    predict_rows(
        folder / "cascade", data=str(folder / "new.parquet"), out=folder / "new", shard_rows=50, progress=False
    )
    return folder


def half_deferred(folder: Path) -> Plan:
    """A plan, as a search would score it, whose first member keeps about half of the rows."""
    pool = read_pool(folder)
    sure = np.unique(pool.predictions["small"].probs.max(axis=1)).astype(float)
    half = len(sure) // 2
    at = half + int(np.diff(sure)[half : half + 40].argmax())  # no row's own: batches differ in rounding
    costs = tuple(cost.value for cost in pool.costs("macs", ("small", "big")).values())
    plan = Plan(("small", "big"), (float(sure[at] + sure[at + 1]) / 2,), costs, unit="macs")
    (stages,) = read_stages([plan], pool.predictions, "accuracy")
    return stages.rescored(plan)


def test_rows_like_those_of_the_search_are_no_drift_and_others_are(place: Path, tmp_path: Path) -> None:
    found = watch(place / "cascade", place / "new")
    assert not found.drift.differs
    assert found.drift.then.rows == found.drift.now.rows == 200
    assert json.loads((place / "cascade" / "evidence.json").read_text())["answers"]["exits"] == list(
        found.drift.then.exits
    )
    pq.write_table(pa.table({"text": ["good"] * 150 + ["the plot"] * 50}), tmp_path / "other.parquet")
    predict_rows(place / "cascade", data=str(tmp_path / "other.parquet"), out=tmp_path / "other", progress=False)
    other = watch(place / "cascade", tmp_path / "other")
    assert other.drift.differs
    done = CliRunner().invoke(app, ["watch", str(place / "cascade"), "--answers", str(tmp_path / "other")])
    assert (done.exit_code, "Rows differ from the 200 select rows" in done.output.replace("\n", " ")) == (1, True)
    done = CliRunner().invoke(app, ["watch", str(place / "cascade"), "--answers", str(place / "new"), "--last", "100"])
    assert (done.exit_code, "of 100 new rows are like" in done.output.replace("\n", " ")) == (0, True)
    table = found.to_pandas()
    assert set(table.compared) == {"exits", "labels", "confidence"}
    assert ((table.low <= table.now) & (table.now <= table.high)).all()


def test_answers_of_another_plan_are_held_against_that_plan(place: Path, tmp_path: Path) -> None:
    data = str(place / "new.parquet")
    predict_rows(place / "cascade", budget=2.0, data=data, out=tmp_path / "new", progress=False)
    found = watch(place / "cascade", tmp_path / "new")
    model = CascadeForSequenceClassification.from_pretrained(place / "cascade")
    assert isinstance(model, CascadeForSequenceClassification)
    model.budget = 2.0
    assert found.drift.plan == model.plan
    assert found.drift.then.exits == tuple(round(share * 200) for share in model.plan.exit_shares)


def test_rows_without_an_answer_and_a_changed_cascade_are_said(place: Path, tmp_path: Path) -> None:
    answers = shutil.copytree(place / "new", tmp_path / "new")
    (answers / "part-000003.parquet").unlink()  # not finished
    first = pq.read_table(answers / "part-000000.parquet")
    empty = [None] * 3
    broken = pa.table({name: empty if name != "error" else ["broken"] * 3 for name in first.column_names})
    pq.write_table(pa.concat_tables([first, broken.cast(first.schema)]), answers / "part-000000.parquet")
    manifest = json.loads((answers / "_answers.json").read_text())
    (answers / "_answers.json").write_text(json.dumps({**manifest, "weights": "0" * 64}))
    found = watch(place / "cascade", answers)
    assert (found.drift.now.rows, found.errors) == (150, 3)
    (note,) = found.notes
    assert "are not those that gave these answers any more" in note


def test_what_does_not_belong_together_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cascade, so there are no exits to watch"):
        watch(place / "small", place / "new")
    with pytest.raises(InputError, match="no such folder"):
        watch(place / "cascade", tmp_path / "gone")
    with pytest.raises(InputError, match="is no folder of answers"):
        watch(place / "cascade", place / "preds")
    answers = shutil.copytree(place / "new", tmp_path / "new")
    table = pq.read_table(answers / "part-000000.parquet")
    for column, value, why in (("label", "maybe", "has the label 'maybe'"), ("exit_stage", 7, "has exits at stage 7")):
        at = table.column_names.index(column)
        odd = table.set_column(at, column, pa.array([value] * len(table), table.schema.types[at]))
        pq.write_table(odd, answers / "part-000000.parquet")
        with pytest.raises(InputError, match=why):
            watch(place / "cascade", answers)
    (answers / "part-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="it cannot be read"):
        watch(place / "cascade", answers)
    for part in answers.glob("part-*"):
        part.unlink()
    with pytest.raises(InputError, match="no answers are there yet"):
        watch(place / "cascade", answers)


def test_the_report_has_a_section_of_them(place: Path, tmp_path: Path) -> None:
    page = page_for([place / "cascade", place / "new"])
    (section,) = (section for section in page.sections if section.name == "drift")
    (block,) = section.blocks
    assert block.lead[0].startswith("No drift seen: exits, labels, confidence of 200 new rows")
    assert block.table is not None
    assert [row[0].text for row in block.table.rows][:2] == ["exits: small", "exits: big"]
    assert all(section.name != "drift" for section in page_for([place / "cascade"]).sections)
    with pytest.raises(InputError, match="Name the cascade too"):
        page_for([place / "new"])
    assert read_answers(place / "new").table.num_rows == 200
