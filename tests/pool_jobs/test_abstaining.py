"""A human at the end, from a searched pool to a cascade's folder, its card and the report."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_soups.cascades import Frontier
from hf_soups.cascades.running.model import CascadeForImageClassification
from hf_soups.cli import app
from hf_soups.errors import InputError
from hf_soups.metrics import METRICS
from hf_soups.pool import read_pool
from hf_soups.pool_jobs import abstain_plan, build_from, certify_plan_risk, search_pool, select_and_report
from hf_soups.reporting.cards.card import check_card, write_card
from hf_soups.reporting.page.cascades import exit_section
from hf_soups.reporting.page.sources import ReportContent, ShownCascade
from tests.makers.tiny import tiny_vit
from tests.pool_jobs.made_pool import LABELS, made_pool


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A frontier over a pool whose members are on disk, and the number of one of its cascades."""
    folder = tmp_path_factory.mktemp("searched")
    names = dict(enumerate(LABELS))
    about = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    sources = tuple(tiny_vit(folder / f"model{i}", labels=3, seed=i, **about) for i in range(3))
    made_pool(folder / "pool", rows=2000, sources=sources)
    found = search_pool(folder / "pool", report="0.5", out=folder / "frontier.json", folds=0)
    plans = enumerate(found.frontier.plans)
    return found.path, next(i for i, p in plans if len(p.members) == 2 and 0.5 < p.thresholds[0] <= 1)


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_thresholds_are_chosen_on_select_and_looked_at_on_report(searched: tuple[Path, int], tmp_path: Path) -> None:
    path, index = searched
    found = abstain_plan(f"{path}#{index}", coverages=[0.8, 1.0, 0.95], out=tmp_path)
    plan, parts = Frontier.load(path).plan(index), select_and_report(read_pool(path.parent / "pool"), "0.5", 0)
    assert parts.report is not None
    assert [row.select.coverage for row in found.rows] == pytest.approx([1.0, 0.95, 0.8], abs=0.01)
    for row in found.rows:
        assert row.report is not None
        for given, rows in ((row.select, parts.select), (row.report, parts.report)):
            answers = replace(plan, abstain=row.plan.abstain).apply(rows)
            assert answers.abstained is not None
            kept = answers.take(np.flatnonzero(~answers.abstained))
            assert given.coverage == len(kept) / len(answers)
            assert given.risk == pytest.approx((kept.answers != kept.labels).mean())
            assert given.score == pytest.approx(METRICS["accuracy"].compute(kept))
            assert given.low <= given.risk <= given.high
    risks = [row.report.risk for row in found.rows if row.report is not None]
    assert risks[0] > risks[-1]
    with (tmp_path / "coverage_vs_risk.csv").open() as file:
        points = list(csv.DictReader(file))
    assert found.select is not None
    assert {row["rows"] for row in points} == {"select, 1000 rows", "report, 1000 rows"}
    assert float(points[0]["risk"]) == pytest.approx(found.select.risks[0])
    assert list(found.to_pandas().columns)[:4] == ["plan", "members", "average_cost", "abstain"]
    assert repr(found).startswith("AbstainResult(")


def test_of_a_frontier_no_row_is_beaten_in_cost_coverage_and_risk(searched: tuple[Path, int]) -> None:
    path, _ = searched
    rows = abstain_plan(str(path), coverages=[1.0, 0.9]).rows
    assert len({row.number for row in rows}) > 1
    points = [(row.plan.average_cost, -row.select.coverage, row.select.risk) for row in rows]
    for own in points:
        assert not any(all(a <= b for a, b in zip(o, own, strict=True)) and o != own for o in points)


def test_the_commands_from_the_curve_to_a_cascade_that_asks_a_human(searched: tuple[Path, int], tmp_path: Path) -> None:
    path, index = searched
    status, told = run("cascade", "abstain", f"{path}#{index}", "--coverage", "0.9", "--out", tmp_path / "drawn")
    assert status == 0
    assert "AURC on report" in told
    assert (tmp_path / "drawn" / "coverage_vs_risk.png").stat().st_size
    status, told = run("cascade", "abstain", path)
    assert status == 0
    assert "a human below" in told
    status, told = run("cascade", "certify", f"{path}#{index}", "--max-risk", "0.5")
    assert (status, "Certified with probability 0.95: at most 50% of the answers wrong" in told) == (0, True)
    found = certify_plan_risk(f"{path}#{index}", max_risk=0.5)
    assert found.plan is not None
    assert found.plan.abstain == 0.0  # so many may be wrong that none is left to a human
    assert "also if every row is answered" in told.replace("\n", " ")
    assert "to use it" not in told
    assert run("cascade", "certify", f"{path}#{index}", "--max-risk", "0.001")[0] == 1
    with pytest.raises(InputError, match="leave out --max-loss and --against"):
        run("cascade", "certify", f"{path}#{index}", "--max-risk", "0.1", "--max-loss", "0.1")
    status, _ = run("cascade", "build", f"{path}#{index}", "--abstain", "0.5", "--out", tmp_path / "c")
    assert status == 0
    cascade = CascadeForImageClassification.from_pretrained(tmp_path / "c")
    assert isinstance(cascade, CascadeForImageClassification)
    assert {plan.abstain for plan in cascade.config.plans} == {0.5}
    cascade.budget = 0.9
    assert cascade.abstains


def test_card_and_report_say_what_a_human_is_left(searched: tuple[Path, int], tmp_path: Path) -> None:
    path, index = searched
    folder = build_from(f"{path}#{index}", tmp_path / "c", abstain=0.6)
    write_card(folder)
    check_card(folder)
    text = (folder / "README.md").read_text()
    assert "always; below 0.6 a human is asked" in text
    plan = CascadeForImageClassification.config_class.from_pretrained(folder).built
    assert plan.coverage is not None
    assert f"| share of select rows that it answers itself | {100 * plan.coverage:.1f} % |" in text
    assert json.loads((folder / "evidence.json").read_text())["plan"]["abstain"] == 0.6
    report = select_and_report(read_pool(path.parent / "pool"), "0.5", 0).report
    assert report is not None
    answers = plan.apply(report)
    assert answers.abstained is not None

    section = exit_section(ReportContent(None, (), (ShownCascade("c", plan, None, answers),), ()))
    assert section is not None
    words = " ".join(section.blocks[0].words)
    assert "Where even then it is less than 0.6, a human is asked." in words
    assert f"Answered: {100 * (~answers.abstained).mean():.1f}% of 1000 select rows" in words


def test_a_threshold_that_answers_no_row_is_refused_and_of_no_stored_plan(
    searched: tuple[Path, int], tmp_path: Path
) -> None:
    path, index = searched
    plans = Frontier.load(path).plans
    single = next(i for i, plan in enumerate(plans) if len(plan.members) == 1)
    with pytest.raises(InputError, match="no select row is that sure, so every row would be for a human"):
        build_from(f"{path}#{single}", tmp_path / "one", abstain=1.0)
    folder = build_from(f"{path}#{index}", tmp_path / "c", abstain=2.0)  # early exits are answered all the same
    stored = CascadeForImageClassification.config_class.from_pretrained(folder).plans
    assert stored
    assert all(plan.coverage for plan in stored)
    nothing = abstain_plan(f"{path}#{single}", coverages=[0.0])
    assert [row.select.coverage for row in nothing.rows] == [0.0]
    assert "0.0%" in run("cascade", "abstain", f"{path}#{single}", "--coverage", "0")[1]


def test_without_report_rows_there_is_a_curve_and_no_certificate(searched: tuple[Path, int], tmp_path: Path) -> None:
    found = search_pool(searched[0].parent / "pool", out=tmp_path / "f.json", folds=0)
    rows = abstain_plan(f"{found.path}#0").rows
    assert all(row.report is None for row in rows)
    with pytest.raises(InputError, match="the search saw every row"):
        certify_plan_risk(f"{found.path}#0", max_risk=0.1)
