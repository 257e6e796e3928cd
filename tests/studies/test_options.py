"""What the studies asked of the commands: copies, a recipe's members, plans by goal, latency, all kinds by cost."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import torch
import yaml

from hf_soups.cascades import NEVER, Frontier, Plan
from hf_soups.cascades.cost_points import cost_picture
from hf_soups.cascades.frontier import plan_at
from hf_soups.data import load_report, load_splits
from hf_soups.errors import InputError
from hf_soups.finetune.start import load_start, make_start, with_random_weights
from hf_soups.leaderboard import build_leaderboard
from hf_soups.plots import canvas
from hf_soups.plots.cascades import draw_latency
from hf_soups.pool import read_pool
from hf_soups.pool.entries import pool_entries
from hf_soups.pool.predict import predict_pool
from hf_soups.pool.store import Member
from hf_soups.pool_jobs.pictures import draw_cascade_pictures, latency_bars
from hf_soups.sweep.run import prepare
from tests.ensembles.pool import pool
from tests.makers.folders import folder_of
from tests.makers.small_task import image_recipe
from tests.makers.synthetic_sweep import write_finished_run, write_plan
from tests.makers.tiny import tiny_resnet, tiny_vit

EXAMPLE = Path(__file__).parents[2] / "examples" / "wide_resnet.py"
CLASSES = {0: "top", 1: "middle", 2: "bottom"}
SMALL = Plan(("small",), (), (1.0,), score=0.70, average_cost=1.0)
BIG = Plan(("big",), (), (10.0,), score=0.80, average_cost=10.0)
CHEAP = Plan(("small", "big"), (0.6,), (1.0, 10.0), score=0.80, average_cost=5.0)
BEST = Plan(("small", "big"), (0.9,), (1.0, 10.0), score=0.82, average_cost=9.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("options")
    tiny_vit(made / "vit", id2label=CLASSES)
    tiny_resnet(made / "resnet", id2label=CLASSES)
    return made


def test_copies_share_the_shape_and_neither_weights_nor_head(place: Path, tmp_path: Path) -> None:
    recipe = image_recipe(place / "data", place / "vit")
    splits = load_splits(recipe.task, recipe.data)
    make_start(recipe, splits, tmp_path / "start")
    start = load_start(tmp_path / "start", recipe, splits)
    one, again, other = (with_random_weights(start, seed) for seed in (1, 1, 2))
    weights = [{n: p.detach() for n, p in s.model.named_parameters()} for s in (start, one, again, other)]
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    moved = [name for name in weights[1] if weights[1][name].std() > 0]  # biases begin at 0, scales of norms at 1
    assert len(moved) > 5
    assert not any(torch.equal(weights[1][n], w[n]) for n in moved for w in (weights[0], weights[3]))
    assert len({s.head_fingerprint for s in (start, one, other)}) == 3


def test_a_sweep_planned_before_a_value_existed_goes_on(place: Path, tmp_path: Path) -> None:
    recipe = image_recipe(place / "data", place / "vit", sweep={"runs": 1})
    prepare(recipe, tmp_path / "sweep")
    (tmp_path / "sweep/start").mkdir()
    plan = tmp_path / "sweep/plan.json"
    told = plan.read_text()
    assert '"random_weights": false' in told
    plan.write_text("\n".join(line for line in told.splitlines() if "random_weights" not in line))
    prepare(recipe, tmp_path / "sweep")
    plan.write_text(told.replace('"random_weights": false', '"random_weights": true'))
    with pytest.raises(InputError, match="run_00 was planned with other values"):
        prepare(recipe, tmp_path / "sweep")


def test_the_report_rows_are_read_without_train(place: Path, tmp_path: Path) -> None:
    recipe = image_recipe(place / "data", place / "vit", data={"report_rows": 20})
    whole = load_splits(recipe.task, recipe.data).report
    alone = load_report(recipe.task.model_copy(update={"train": "nowhere.parquet"}), recipe.data)
    assert alone is not None
    assert alone.fingerprint == whole.fingerprint
    assert np.array_equal(alone.labels, whole.labels)
    (tmp_path / "report.csv").write_text("text,label\na,x\nb,y\n")  # whether there is a third class, train knows
    csv_task = recipe.task.model_copy(
        update={"kind": "text", "path": str(tmp_path), "text": ("text",), "image": None, "report": "report.csv"}
    )
    assert load_report(csv_task, recipe.data) is None


def test_a_recipe_names_the_members_of_its_pool(place: Path, tmp_path: Path) -> None:
    recipe = image_recipe(place / "data", place / "vit", members=[f"v={place}/vit", f"r@24={place}/resnet@24"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    how: dict[str, Any] = {"recipe": tmp_path / "recipe.yaml", "split": "report", "progress": False}
    done = predict_pool([], out=tmp_path / "a", **how)
    assert {n: m.image_size for n, m in done.pool.members.items()} == {"v": None, "r@24": 24}
    named = predict_pool([f"{place}/vit"], out=tmp_path / "b", **how)
    assert list(named.pool.members) == ["vit"]
    changed = predict_pool([], out=tmp_path / "c", overrides={"members": [f"x={place}/nowhere", f"{place}/vit"]}, **how)
    assert (list(changed.pool.members), list(changed.failed)) == (["vit"], ["x"])
    assert list(read_pool(tmp_path / "c").members) == ["vit"]
    with pytest.raises(InputError, match="no model is named, and the recipe has no `members`"):
        predict_pool([], out=tmp_path / "d", overrides={"members": []}, **how)


def test_a_name_given_to_a_sweep_goes_before_those_of_its_models(tmp_path: Path) -> None:
    sweep = write_plan(tmp_path / "sweep", 2)
    for name in ("run_00", "run_01"):
        folder_of(sweep / name, {})
        (sweep / name / "run.json").write_text('{"format": "hf_soups.run.v1", "status": "finished"}')
    assert [a.name for a in pool_entries([f"small={sweep}"])] == ["small-00", "small-01"]
    assert [a.name for a in pool_entries([str(sweep)])] == ["run_00", "run_01"]


def test_a_plan_is_found_by_its_goal(tmp_path: Path) -> None:
    Frontier((SMALL, CHEAP, BEST), (BIG, SMALL)).save(tmp_path / "f.json")
    for goal, plan in (("cheapest", CHEAP), ("best", BEST), ("best@0.5x", CHEAP), ("best@4", SMALL), ("2", BEST)):
        assert plan_at(f"{tmp_path}/f.json#{goal}") == plan
    with pytest.raises(InputError, match=r"no plan of the frontier costs 0.01x or less"):
        plan_at(f"{tmp_path}/f.json#best@0.01x")
    with pytest.raises(InputError, match="'cheap' is not a cost"):
        plan_at(f"{tmp_path}/f.json#best@cheap")
    Frontier((SMALL,), (BIG,)).save(tmp_path / "g.json")
    with pytest.raises(InputError, match="no plan of the frontier reaches the best single model's score"):
        plan_at(f"{tmp_path}/g.json#cheapest")


def measured(**seconds: tuple[float, float]) -> dict[str, Member]:
    return {
        name: Member(name, name, seconds_batch_1=one, seconds=best, hardware="a laptop")
        for name, (one, best) in seconds.items()
    }


def test_a_cascades_latency_is_of_the_members_that_its_rows_met(tmp_path: Path) -> None:
    made = pool(0, 2, 60, 4)
    plan = Plan(("m0", "m1"), (0.5,), (1.0, 10.0))
    done = plan.apply(made)
    assert done.exits is not None
    on = float((done.exits == 1).mean())
    assert 0 < on < 1
    known = measured(m1=(0.4, 0.2), m0=(0.1, 0.02), other=(0.3, 0.1))
    bars = latency_bars(plan, done, known, beside=("other",))
    assert [bar.name for bar in bars] == ["m0", "other", "m1", "m0 -> m1"]
    cascade = bars[-1]
    assert cascade.seconds_batch_1 == pytest.approx(0.1 + on * 0.4)
    assert cascade.seconds == pytest.approx(0.02 + on * 0.2)
    assert (cascade.worst_batch_1, cascade.worst) == pytest.approx((0.5, 0.22))
    _, table = draw_latency(bars, tmp_path / "l.png")
    assert [float(r["seconds"]) for r in csv.DictReader(table.open())] == [bar.seconds for bar in bars]
    unmeasured = {**known, "m1": Member("m1", "m1")}
    elsewhere = {**known, "m1": replace(known["m1"], hardware="a server")}
    for members in (unmeasured, elsewhere):
        assert latency_bars(plan, done, members) == ()
    alone = Plan(("m0",), (), (1.0,))
    assert [bar.kind for bar in latency_bars(alone, alone.apply(made), known)] == ["single"]


def test_a_soup_among_the_members_has_a_mark_of_its_own(tmp_path: Path) -> None:
    made = pool(1, 2, 40, 3)
    singles = tuple(Plan((n,), (), (c,), score=0.5, average_cost=c) for n, c in (("m0", 1.0), ("m1", 2.0)))
    both = Plan(("m0", "m1"), (NEVER,), (1.0, 2.0), score=0.6, average_cost=3.0)
    frontier = Frontier((*singles, both), singles, (both,))
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup/soup.json").write_text("{}")
    members = {"m0": Member("m0", str(tmp_path)), "m1": Member("m1", str(tmp_path / "soup"))}
    draw_cascade_pictures(tmp_path / "out", frontier, both.apply(made), plan=both, members=members)
    drawn = {r["name"]: r["kind"] for r in csv.DictReader((tmp_path / "out/score_vs_cost.csv").open())}
    assert drawn == {"m0": "single", "m1": "soup", "m0 + m1": "ensemble"}
    assert not (tmp_path / "out/latency.png").exists()
    assert {p.kind for p in cost_picture(frontier).points} == {"single", "ensemble"}


def test_everything_whose_cost_is_known_stands_in_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[matplotlib.figure.Figure] = []
    monkeypatch.setattr(canvas, "save_figure", lambda figure, path: figures.append(figure))
    sweep = write_plan(tmp_path / "sweep", 3)
    write_finished_run(sweep / "run_00", 170, 230, seed=1)
    write_finished_run(sweep / "run_01", 180, 225, seed=2)
    write_finished_run(sweep / "run_02", 160, 220, seed=3, macs=None)
    board = build_leaderboard(sweep)
    paths = board.save(tmp_path / "out")
    assert [p.name for p in paths][-2:] == ["score_vs_cost.png", "score_vs_cost.csv"]
    axes = figures[-1].axes[0]
    spots = {tuple(xy) for c in axes.collections for xy in getattr(c, "get_offsets", list)()}
    known = {(float(r.macs), 100 * r.report) for r in board.rows if r.macs and r.report is not None}
    assert known <= spots
    assert {r.kind for r in board.rows if r.macs} >= {"run", "best on select", "ensemble"}
    (stairs,) = [line for line in axes.get_lines() if line.get_label() == "best of these within a cost"]
    heights = list(stairs.get_ydata())
    assert heights == sorted(heights)
    assert heights[-1] == max(y for _, y in known)
    (tmp_path / "bare").mkdir()
    unknown = replace(board, rows=tuple(replace(r, macs=None) for r in board.rows))
    assert "score_vs_cost.png" not in [p.name for p in unknown.save(tmp_path / "bare")]


def test_the_example_of_wide_resnets_saves_and_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    spec = importlib.util.spec_from_file_location("wide_resnet", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    config = example.WideResNetConfig(10, 0.25, image_size=8, num_labels=3)
    model = example.WideResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 8, 8)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(images).logits, model(images).logits)
    assert loaded(images, labels=torch.tensor([0, 2])).loss > 0
