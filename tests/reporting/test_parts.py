"""Parts of the page beside the leaderboard: settings, classes, kept diagnoses, terms, cascades as its lines."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hf_soups.cascades import Frontier, Plan
from hf_soups.leaderboard.rows import read_scored_models
from hf_soups.pool import Pool
from hf_soups.predictions import Predictions
from hf_soups.reporting.page import page_for, settings
from hf_soups.reporting.page.charts import LOOKS, cost_chart
from hf_soups.reporting.page.classes import LISTED, class_scores, class_section, worst_confusions
from hf_soups.reporting.page.html import Chart, Page, PageTable, Section, page_table
from hf_soups.reporting.page.kept import BY_NUMBER, DIAGNOSIS, PNG, RECORD, kept_section
from hf_soups.reporting.page.settings import differing_of, settings_of
from hf_soups.reporting.page.sources import AnsweredPool, ShownCascade, ShownSweep, _on_the_same_rows, read_content
from hf_soups.reporting.page.terms import TERMS, parts_of
from hf_soups.reporting.page.training import soup_section
from hf_soups.reporting.page.verdict import Choice
from tests.reporting.made import drawn, write_soup, write_sweep


def section(page: Page, name: str) -> Section:
    return next(s for s in page.sections if s.name == name)


def column(table: PageTable, title: str) -> list[str]:
    at = [c.title for c in table.columns].index(title)
    return [row[at].text for row in table.rows]


def chart(page: Page, name: str) -> Chart:
    return next(c for c in page.charts if c.name == name)


def answered(labels: Any, answers: Any, classes: int) -> Predictions:
    probs = np.full((len(labels), classes), 0.1 / (classes - 1))
    probs[np.arange(len(labels)), answers] = 0.9
    return Predictions.from_probs(probs, labels=labels)


# Settings


def test_settings_that_differ_stand_beside_the_scores_and_those_that_do_not_are_left_out(page: Page) -> None:
    (block,) = section(page, "settings").blocks
    assert block.table is not None
    titles = [c.title for c in block.table.columns]
    assert titles == ["run", "learning rate", "mixup", "schedule", "seed", "select", "report"]  # not epochs
    rows = {row[0].text: [cell.text for cell in row] for row in block.table.rows}
    assert rows["run_01"][1:5] == ["0.0001", "0.2", "cosine", "101"]
    assert rows["run_01"][5].startswith("90.0 [")
    assert [c.name for c in block.charts] == ["setting-1", "setting-2", "setting-3"]  # a seed has no picture


def test_learning_rates_have_a_logarithmic_axis_and_words_a_place_each(page: Page) -> None:
    rate, mixup, schedule = (chart(page, f"setting-{i}").spec["encoding"]["x"] for i in (1, 2, 3))
    assert (rate["title"], rate["type"], rate["scale"]["type"]) == ("learning rate", "quantitative", "log")
    assert (mixup["type"], mixup["scale"]["type"]) == ("quantitative", "linear")
    assert (schedule["title"], schedule["type"]) == ("schedule", "nominal")
    shown = chart(page, "setting-3")
    assert {v["setting"] for v in shown.spec["data"]["values"]} == {"linear", "cosine"}
    assert "The best, run_01, has cosine: 90.0." in shown.text


def test_only_what_differs_is_a_setting_and_names_and_tasks_are_none() -> None:
    known = [settings_of({"name": f"r{i}", "task": {"path": f"/{i}"}, "train": drawn(i)}) for i in range(2)]
    assert differing_of(known) == ["train.learning_rate", "train.mixup", "train.schedule", "train.seed"]
    assert differing_of(known[:1]) == []


def test_of_many_runs_the_best_are_shown_and_the_others_counted(
    everything: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "LISTED", 2)
    made = settings.setting_section(read_content([everything / "runs"], resamples=5))
    assert made is not None
    assert made.blocks[0].words[1] == "The 2 best on select are shown, of 3 runs."
    assert made.blocks[0].table is not None
    assert column(made.blocks[0].table, "run") == ["run_01", "run_00"]


# Classes


def test_scores_by_class_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    answers = np.where(rng.random(200) < 0.7, labels, rng.integers(0, 5, 200))
    mine = class_scores(answered(labels, answers, 5))
    precision, recall, f1, rows = precision_recall_fscore_support(labels, answers)
    np.testing.assert_allclose(mine.precision, precision)
    np.testing.assert_allclose(mine.recall, recall)
    np.testing.assert_allclose(mine.f1, f1)
    assert mine.rows.tolist() == rows.tolist()
    matrix = confusion_matrix(labels, answers)
    np.fill_diagonal(matrix, 0)
    found = worst_confusions(answered(labels, answers, 5), 25)
    assert sum(count for _, _, count in found) == matrix.sum()
    assert all(matrix[i, j] == count for i, j, count in found)
    assert found[0][2] == matrix.max()


@pytest.mark.parametrize(("classes", "charts"), [(2, 2), (20, 2), (21, 0), (1000, 0)])
def test_few_classes_are_a_matrix_and_many_are_tables_of_the_worst(classes: int, charts: int) -> None:
    labels = np.arange(3 * classes) % classes
    wrong, single = labels.copy(), labels.copy()
    wrong[: classes // 2] = (wrong[: classes // 2] + 1) % classes
    single[:] = (single + 1) % classes
    made = class_section(
        Choice((), "soup", answered(labels, wrong, classes), "report", "run_0", answered(labels, single, classes))
    )
    assert made is not None
    confusions, by_class = made.blocks[1:]
    assert len(confusions.charts) == charts
    assert confusions.table is not None
    assert len(confusions.table.rows) == min(classes // 2, 20)
    assert column(confusions.table, "rows of run_0")[0] == "3"
    assert by_class.table is not None
    assert len(by_class.table.rows) == min(classes, LISTED)
    if classes > LISTED:
        assert f"the {LISTED} of 1000 classes with the lowest F1" in by_class.table.caption
        assert float(column(by_class.table, "F1 x 100")[0]) < 100
    for one in confusions.charts:
        assert sum(map(int, column(one.table, "rows"))) == len(labels)


def test_a_class_without_rows_or_answers_has_no_scores() -> None:
    made = class_section(Choice((), "run_0", answered(np.array([0, 1]), [0, 1], 3), "select", "run_0", None))
    assert made is not None
    table = made.blocks[-1].table
    assert table is not None
    assert column(table, "recall x 100") == ["100.0", "100.0", "-"]
    assert made.blocks[1].words == ("run_0 answers every row right.",)


def test_regressions_and_unlabelled_rows_have_no_classes() -> None:
    numbers = Predictions.from_logits(np.zeros((3, 1)), labels=np.zeros(3), problem_type="regression")
    unlabelled = Predictions.from_probs([[0.5, 0.5]])
    for p in (numbers, unlabelled, None):
        assert class_section(Choice((), "a", p, "report", "b", p)) is None


def test_many_labels_a_row_have_scores_by_label_and_no_matrix() -> None:
    labels = np.array([[1, 0, 1], [0, 1, 1]], dtype=np.float32)
    p = Predictions.from_logits(np.array([[2.0, -1, 1], [1, 2, -1]]), labels=labels, problem_type="multi-label")
    made = class_section(Choice((), "a", p, "report", "a", p))
    assert made is not None
    table = made.blocks[-1].table
    assert table is not None
    assert column(table, "recall x 100") == ["100.0", "100.0", "50.0"]
    assert column(table, "precision x 100") == ["50.0", "100.0", "100.0"]
    assert len(made.blocks) == 2


# What diagnose and by-number left


def test_a_kept_diagnosis_and_by_number_are_shown_with_words_pictures_and_numbers(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "runs")
    content = read_content([sweep], resamples=5)
    assert kept_section(content) is None
    for folder, name in ((DIAGNOSIS, "barriers"), (BY_NUMBER, "by_number")):
        (sweep / folder).mkdir()
        (sweep / folder / f"{name}.png").write_bytes(PNG + b"picture")
        (sweep / folder / f"{name}.csv").write_text("a,share_of_b,score\nrun_00,0.25,0.91234567\nrun_01,0.5,\n")
    (sweep / DIAGNOSIS / RECORD).write_text(json.dumps({"words": ["Averaging pays.", "<b>one</b> basin"]}))
    (sweep / DIAGNOSIS / "plane.png").write_text("<svg onload=alert(1)>")  # no picture of ours
    made = kept_section(content)
    assert made is not None
    diagnosis, by_number = made.blocks
    assert (diagnosis.words, diagnosis.listed) == (("Averaging pays.",), ("<b>one</b> basin",))
    (picture,) = diagnosis.pictures
    assert picture.image.startswith("data:image/png;base64,")
    assert picture.table is not None
    assert [c.title for c in picture.table.columns] == ["a", "share of b", "score"]
    assert [[cell.text for cell in row] for row in picture.table.rows] == [
        ["run_00", "0.25", "0.9123"], ["run_01", "0.5", "-"],
    ]  # fmt: skip
    assert by_number.title == "By number of runs"
    (sweep / DIAGNOSIS / RECORD).write_text("{")
    broken = kept_section(content)
    assert broken is not None
    assert "cannot be read" in broken.blocks[0].words[0]


def test_the_names_of_kept_files_are_those_that_the_commands_write() -> None:
    from hf_soups.diagnosis import by_number, files

    assert (RECORD, BY_NUMBER) == (files.RECORD, by_number.FOLDER)


# Soups and cascades


def test_the_ingredients_of_a_uniform_soup_have_their_scores_alone(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "runs")
    write_soup(sweep, "uniform", ["run_00", "run_01", "run_02"], 182, 235, scores={}, selected_on=None)
    made = soup_section(read_content([sweep], resamples=5))
    assert made is not None
    uniform = next(b for b in made.blocks if b.title == "uniform soup")
    assert uniform.table is not None
    assert column(uniform.table, "alone on select") == ["85.0", "90.0", "80.0"]


def test_a_candidate_that_was_scored_no_further_is_drawn_at_its_bound(page: Page) -> None:
    steps = chart(page, "soup-1-steps")
    (early,) = [v for v in steps.spec["data"]["values"] if v["kind"] == "rejected early"]
    assert (early["score"], early["shown"]) == (91.5, "at most 91.5")
    assert column(steps.table, "score")[-1] == "at most 91.5"
    assert "Of those rejected early a bound is shown" in steps.text
    assert LOOKS["rejected early"][1] != "stroke"  # a filled mark of strokes is not seen at all


def test_cascades_of_a_pool_on_the_same_rows_are_lines_of_the_leaderboard(tmp_path: Path) -> None:
    found = read_scored_models(write_sweep(tmp_path / "runs"))
    first, second = found.runs[:2]
    select, report = ({"a": first.answers[r], "b": second.answers[r]} for r in ("select", "report"))
    plan = Plan(("a", "b"), (0.8,), (1e6, 9e6), unit="macs")
    pool = cast(Pool, SimpleNamespace(members={n: SimpleNamespace(parameters=10) for n in "ab"}))
    some = AnsweredPool("preds", cast(Frontier, None), select, report, pool)
    shown = ShownCascade("out/my-cascade", plan, some, plan.apply(report))
    (line,) = _on_the_same_rows([shown], found)
    assert (line.row.name, line.row.kind, line.row.parameters) == ("my-cascade (a → b)", "cascade", 20)
    assert shown.answers is not None
    assert shown.answers.costs is not None
    assert line.row.macs == round(float(shown.answers.costs.mean()))  # the average over report rows
    few = {name: p.take(np.arange(50)) for name, p in report.items()}
    elsewhere = ShownCascade("x", plan, AnsweredPool("preds", cast(Frontier, None), select, few, pool), plan.apply(few))
    assert list(_on_the_same_rows([elsewhere], found)) == []


# Terms, headings, charts


def test_a_term_is_marked_where_it_is_met_first_and_never_inside_of_a_path_or_an_option() -> None:
    seen: set[str] = set()
    words = "A soup of preds/select/soup.json --report 5, soups on select rows; MACs, 95% intervals."
    parts = list(parts_of(words, seen))
    assert "".join(piece for piece, _ in parts) == words
    assert [(piece, term) for piece, term in parts if term] == [
        ("soup", "soup"), ("select", "select"), ("MACs", "MACs"), ("intervals", "interval"),
    ]  # fmt: skip
    assert list(parts_of("the soup", seen)) == [("the soup", "")]
    asked = {"soup", "ensemble", "cascade", "MACs", "NLL", "ECE", "select", "report", "threshold", "exit", "interval"}
    assert asked <= set(TERMS)


def test_the_first_click_sorts_scores_from_the_highest_and_losses_and_costs_from_the_lowest(page: Page) -> None:
    table = next(b.table for b in section(page, "leaderboard").blocks if b.table is not None)
    first = {c.title: c.first for c in table.columns}
    lowest = {title for title, order in first.items() if order == "ascending"}
    assert lowest == {"model", "NLL", "ECE", "param.", "MACs", "train s"}
    assert page_table("t", "c", ("a", "b"), [], lower=("b",)).columns[1].first == "ascending"


def test_the_scores_of_a_loss_are_sorted_from_the_lowest(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "runs")
    (sweep / "recipe.yaml").write_text((sweep / "recipe.yaml").read_text().replace("accuracy", "nll"))
    page = page_for([sweep], resamples=5)
    table = next(b.table for b in section(page, "leaderboard").blocks if b.table is not None)
    assert {c.title: c.first for c in table.columns}["report"] == "ascending"


@pytest.mark.slow  # the schema takes seconds
def test_single_models_at_one_place_of_a_cost_chart_share_one_name() -> None:
    places = (("a", 1.0, 90.0), ("b", 1.0, 90.0), ("c", 2.0, 90.0))
    values = [{"name": n, "kind": "single", "cost": c, "score": s, "shown": "", "costs": ""} for n, c, s in places]
    spec = cost_chart(values, [{"cost": 1.0, "score": 90.0}], axis="score", unit="macs", text="")
    (names,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "text"]
    assert [v["name"] for v in names["data"]["values"]] == ["a, b", "c"]


def test_every_chart_is_valid_vega_lite(page: Page) -> None:
    import altair as alt

    for one in page.charts:
        alt.Chart.from_dict(dict(one.spec), validate=True)


def test_a_sweep_in_the_page_has_its_cascades_found_once(everything: Path) -> None:
    content = read_content([everything], resamples=5)
    assert isinstance(content.sweep, ShownSweep)
    names = [row.name for row in content.sweep.board.rows]
    assert len(names) == len(set((r.kind, r.name) for r in content.sweep.board.rows))
