"""`hf-soups cascade defer`, and a cascade that is built with what it learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_soups.cascades.running.model import CascadeForImageClassification
from hf_soups.cli import app
from hf_soups.pool import read_pool
from hf_soups.pool_jobs import build_from, defer_plan, search_pool, select_and_report
from hf_soups.reporting.cards.card import check_card, write_card
from tests.makers.tiny import tiny_vit
from tests.pool_jobs.made_pool import LABELS, made_pool


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("searched")
    about = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    sources = tuple(tiny_vit(folder / f"model{i}", labels=3, seed=i, **about) for i in range(3))
    made_pool(folder / "pool", rows=800, sources=sources)
    found = search_pool(folder / "pool", report="0.5", out=folder / "frontier.json", folds=0)
    plans = enumerate(found.frontier.plans)
    index = next(i for i, p in plans if len(p.members) == 2 and 0.3 < p.exit_shares[0] < 0.8)
    return f"{found.path}#{index}"


def test_the_command_says_whether_it_pays_on_select_and_what_it_does_on_report(reference: str) -> None:
    found = defer_plan(reference)
    report = select_and_report(read_pool(Path(reference).parent / "pool"), "0.5", 0).report
    assert report is not None
    assert found.learned is not None
    answers = found.deferral.plan.apply(report)
    assert found.learned.score.value == pytest.approx((answers.answers == answers.labels).mean())
    done = CliRunner().invoke(app, ["cascade", "defer", reference])
    assert done.exit_code == (0 if found.deferral.pays else 1)
    assert "On report rows: learned" in done.output.replace("\n", " ")


def test_a_cascade_is_built_with_it_and_its_card_says_so(reference: str, tmp_path: Path) -> None:
    folder = build_from(reference, tmp_path / "c", learned_deferral=True)
    model = CascadeForImageClassification.from_pretrained(folder)
    assert isinstance(model, CascadeForImageClassification)
    assert model.plan.rule == defer_plan(reference).deferral.plan.rule
    assert {plan.rule.confidence for plan in model.config.plans} == {"learned", "max"}
    write_card(folder)
    check_card(folder)
    assert "a learned chance that the answer is as good as the last member's" in (folder / "README.md").read_text()
    kept = json.loads((folder / "evidence.json").read_text())
    assert kept["plan"]["rule"]["confidence"] == "learned"
    (chosen,) = (row for row in kept["report"] if row["name"] == "chosen")
    report = select_and_report(read_pool(Path(reference).parent / "pool"), "0.5", 0).report
    assert report is not None
    answers = model.plan.apply(report)
    assert chosen["score"] == pytest.approx((answers.answers == answers.labels).mean())
