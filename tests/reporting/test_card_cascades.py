"""What building a cascade keeps for its card: data, members, and scores on rows that nothing was chosen on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from hf_soups.cascades import Frontier
from hf_soups.cascades.running.model import CascadeForImageClassification
from hf_soups.cli import app
from hf_soups.errors import InputError, MemberError
from hf_soups.pool import read_pool
from hf_soups.pool.predict import predict_pool
from hf_soups.pool.store import write_pool
from hf_soups.pool_jobs import build_from, search_pool, select_and_report
from hf_soups.recipe.origin import recipe_kept
from hf_soups.reporting.cards.card import CardDetails, card_for, check_card, write_card
from hf_soups.reporting.cards.markdown import cells_of, code_of
from tests.makers.folders import change_json
from tests.makers.pile import make_pile
from tests.makers.tiny import tiny_vit
from tests.pool_jobs.made_pool import LABELS, made_pool

REPORT = "report: nothing was chosen on them"
SELECT = "select: chosen on these rows, so optimistic"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A frontier over a pool whose members lie on disk, and the index of one of its cascades."""
    folder = tmp_path_factory.mktemp("searched")
    names = dict(enumerate(LABELS))
    about = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    sources = tuple(tiny_vit(folder / f"model{i}", labels=3, seed=i, **about) for i in range(3))
    pool = read_pool(made_pool(folder / "pool", sources=sources))
    measured = {
        name: replace(
            m, sha256=m.checkpoint.sha256(), seconds=0.5, seconds_batch_1=1.0, best_batch=8, hardware="a CPU, 1 thread",
            notes=("its classes are assumed to be in the data's order",) if name == "m0" else (),
        )
        for name, m in pool.members.items()
    }  # fmt: skip
    write_pool(replace(pool, members=measured))
    found = search_pool(folder / "pool", report="0.4", out=folder / "frontier.json", folds=3)
    plans = enumerate(found.frontier.plans)
    return found.path, next(i for i, p in plans if len(p.members) > 1 and p.thresholds[0] <= 1)


@pytest.fixture(scope="module")
def built(searched: tuple[Path, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, index = searched
    return build_from(f"{path}#{index}", tmp_path_factory.mktemp("built") / "cascade")


@pytest.fixture
def cascade(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "cascade")


def test_the_kept_report_score_is_that_of_the_plan_on_the_rows_kept_back(
    built: Path, searched: tuple[Path, int]
) -> None:
    path, index = searched
    frontier = Frontier.load(path)
    pool = read_pool(path.parent / "pool")
    rows = select_and_report(pool, "0.4", 0).report
    assert rows is not None
    answers = frontier.plan(index).apply(rows)
    assert answers.costs is not None
    right = float(np.mean(answers.answers == answers.needs_labels()))
    told = json.loads((built / "evidence.json").read_text())
    (chosen,) = (t for t in told["report"] if t["name"] == "chosen")
    assert (chosen["score"], chosen["average_cost"]) == (right, float(answers.costs.mean()))
    assert chosen["low"] <= right <= chosen["high"]
    assert (told["data"]["select"]["rows"], told["data"]["report"]["rows"]) == (120, 80)
    assert told["search"] == {"models": 3, "plans": len(frontier.plans), "plan": index, "seed": 0}
    for name in frontier.plan(index).members:
        assert told["members"][name]["sha256"] == pool.members[name].checkpoint.sha256()


def test_nothing_that_is_kept_names_a_place_of_this_machine(built: Path, searched: tuple[Path, int]) -> None:
    assert str(searched[0].parent) not in (built / "evidence.json").read_text()
    assert str(searched[0].parent) not in str(card_for(built))


def test_the_card_says_what_was_kept(cascade: Path) -> None:
    write_card(cascade)
    check_card(cascade)
    text = (cascade / "README.md").read_text()
    told = json.loads((cascade / "evidence.json").read_text())
    chosen, best = (next(t for t in told["report"] if t["name"] == name) for name in ("chosen", "best single"))
    cells = cells_of(text)
    assert cells["Results", REPORT, "accuracy"] == f"{100 * chosen['score']:.1f}"
    assert cells["Results", REPORT, "95% interval"] == f"{100 * chosen['low']:.1f} to {100 * chosen['high']:.1f}"
    single = f"report: the best single model on select, {best['members'][0]}"
    assert cells["Results", single, "accuracy"] == f"{100 * best['score']:.1f}"
    assert cells["Data", "split for report", "Value"] == "test, 0.4 of the rows that were answered"
    first = chosen["members"][0]
    assert cells["Weights", first, "SHA-256 of the weights"] == told["members"][first]["sha256"]
    assert cells["Weights", first, "Seconds at its best batch"] == "0.5 (batch 8)"
    assert cells["Weights", first, "Seconds on"] == "a CPU, 1 thread"
    assert [p for p in ("score_vs_cost.png", "exits.png") if f"({p})" not in text or not (cascade / p).is_file()] == []
    assert ("m0: its classes are assumed" in text) == ("m0" in chosen["members"])
    recipe = yaml.safe_load(code_of(text, "yaml") or "")
    assert recipe["rows"]["select"]["path"] == "made-up"
    assert recipe["search"]["report"] == "0.4"


def test_the_report_score_goes_to_eval_results_with_its_number_of_rows(cascade: Path) -> None:
    write_card(cascade, details=CardDetails(data_set="org/pictures"))
    (entry,) = yaml.safe_load((cascade / ".eval_results/hf_soups.yaml").read_text())
    told = json.loads((cascade / "evidence.json").read_text())
    assert entry["value"] == next(t["score"] for t in told["report"] if t["name"] == "chosen")
    assert entry["notes"] == "accuracy on 80 rows of test"
    assert [r.metric_name for r in card_for(cascade).data.eval_results] == ["accuracy on report"]


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("report", -1, "score"), 0.123, "accuracy on report in the metadata"),
        (("report", -1, "low"), 0.0, "'95% interval' of 'report: nothing .* but evidence.json says 0.0 to"),
        (("report", -1, "average_cost"), 77.0, "'Average cost .* but evidence.json says 77"),
        (("report", -1, "p_value"), 0.123, "'p against the best single model' .* but evidence.json says 0.12"),
        (("report", 0, "score"), 0.123, "'report: the best single model .* but evidence.json says 12.3"),
        (("members", "m1", "parameters"), 77, "'Parameters' of 'm1' under 'Weights' .* but evidence.json says 77"),
        (("members", "m1", "seconds"), 7.5, "'Seconds at its best batch' of 'm1' .* evidence.json says 7.5"),
        (("members", "m1", "sha256"), "f" * 64, "'SHA-256 of the weights' of 'm1' under 'Weights'"),
        (("search", "models"), 99, "'models searched' .* but evidence.json says 99"),
        (("data", "select", "rows"), 99, "'select rows' under 'Data' .* but evidence.json says 99"),
        (("search", "seed"), 99, "the recipe is another, but evidence.json says 'seed: 99'"),
    ],
)
def test_a_card_that_is_not_the_evidence_is_found_out(
    cascade: Path, keys: tuple[Any, ...], value: Any, named: str
) -> None:
    write_card(cascade, details=CardDetails(data_set="org/pictures"))
    change_json(cascade / "evidence.json", *keys, to=value)
    with pytest.raises(InputError, match=named):
        check_card(cascade)


def test_a_cascade_with_code_says_how_to_use_it_without_hf_soups(searched: tuple[Path, int], tmp_path: Path) -> None:
    path, index = searched
    out = tmp_path / "cascade"
    done = CliRunner().invoke(app, ["cascade", "build", f"{path}#{index}", "--out", str(out), "--with-code"])
    assert done.exit_code == 0, done.output
    assert (out / "modeling_cascade.py").is_file()
    text = str(card_for(out, name="me/it"))
    assert "`pip install hf_soups`, then `import hf_soups`; or the code that it brings, see Use." in text
    assert 'model="me/it", trust_remote_code=True)` runs `modeling_cascade.py`' in text
    write_card(out)
    check_card(out)


def test_members_that_were_copied_from_the_hub_are_base_models(cascade: Path) -> None:
    assert "base_model" not in card_for(cascade).data.to_dict()
    name = next(iter(json.loads((cascade / "evidence.json").read_text())["members"]))
    change_json(cascade / "evidence.json", "members", name, "source", to="org/small")
    change_json(cascade / "evidence.json", "members", name, "revision", to="v2")
    assert card_for(cascade).data.base_model == ["org/small"]


def test_evidence_that_is_none_is_refused(cascade: Path) -> None:
    (cascade / "evidence.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"evidence.json: expected the evidence of a cascade .*Build the cascade again"
    ):
        card_for(cascade)


def test_a_search_that_kept_no_rows_back_is_not_said_to_be_reported(searched: tuple[Path, int], tmp_path: Path) -> None:
    pool = searched[0].parent / "pool"
    found = search_pool(pool, out=tmp_path / "frontier.json", folds=0)
    index = next(i for i, p in enumerate(found.frontier.plans) if len(p.members) > 1)
    folder = build_from(f"{found.path}#{index}", tmp_path / "cascade")
    card = card_for(folder)
    assert card.data.eval_results is None
    assert "It was not measured on rows that nothing was chosen on." in card.text
    assert "the select rows that chose it" in card.text


def test_a_loss_is_shown_as_the_metric_gives_it(searched: tuple[Path, int], tmp_path: Path) -> None:
    pool = searched[0].parent / "pool"
    found = search_pool(pool, metric="nll", report="0.5", out=tmp_path / "frontier.json", folds=0)
    folder = build_from(f"{found.path}#{len(found.frontier.plans) - 1}", tmp_path / "cascade")
    card = card_for(folder)
    assert card.data.eval_results is None  # the Hub knows no such metric
    assert float(cells_of(card.text)["Results", SELECT, "nll"]) == round(-found.frontier.plans[-1].score, 4)


def test_members_whose_weights_are_not_those_that_answered_are_refused(
    searched: tuple[Path, int], tmp_path: Path
) -> None:
    path, index = searched
    folder = shutil.copytree(path.parent, tmp_path / "searched")
    frontier = Frontier.load(path)
    replace(frontier, pool=str(folder / "pool")).save(folder / "frontier.json")
    name = frontier.plan(index).members[0]
    shutil.copy(tiny_vit(tmp_path / "other", labels=3, seed=9) / "model.safetensors", folder / f"model{name[1:]}")
    with pytest.raises(InputError, match=rf"its weights are not what answered as '{name}'"):
        build_from(f"{folder / 'frontier.json'}#{index}", tmp_path / "cascade")
    assert not (tmp_path / "cascade").exists()


def test_a_pool_predicted_by_a_recipe_keeps_it_and_its_cascades_name_task_and_data(tmp_path: Path) -> None:
    pile = make_pile(tmp_path / "pile", models=2)
    models = [f"small={pile / 'm0'}", f"large={pile / 'm1'}"]
    predict_pool(models, recipe=pile / "recipe.yaml", out=tmp_path / "preds", progress=False)
    kept = recipe_kept(tmp_path / "preds")
    assert kept is not None
    assert kept.task.path == "./data"
    found = search_pool(tmp_path / "preds", cost="parameters", report="0.5", folds=0)
    folder = build_from(f"{found.path}#{len(found.frontier.plans) - 1}", tmp_path / "cascade")
    cells = cells_of(card_for(folder).text)
    assert cells["Data", "split for select", "Value"] == "train, the others of the rows that were answered"
    assert cells["Data", "split for report", "Value"] == "train, 0.5 of the rows that were answered"
    assert cells["Data", "columns", "Value"] == "sentence"


def test_a_member_that_was_replaced_after_the_build_makes_no_card_and_does_not_run(cascade: Path) -> None:
    write_card(cascade)
    shutil.copy(cascade / "member_0/model.safetensors", cascade / "member_1/model.safetensors")
    for use in (card_for, check_card, CascadeForImageClassification.from_pretrained):
        with pytest.raises(MemberError, match=r"member_1: its weights are not those that the cascade was built of"):
            use(cascade)


def test_evidence_of_another_plan_makes_no_card(cascade: Path) -> None:
    change_json(cascade / "config.json", "plan", "thresholds", 0, to=0.123)
    with pytest.raises(InputError, match=r"evidence\.json: its scores are of another plan than that of config\.json"):
        card_for(cascade)
