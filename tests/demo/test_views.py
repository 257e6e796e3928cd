"""The page's HTML: every number of a journey stands there, what visitors and models call things is escaped."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, Rule
from hf_soups.demo.cascade import examples_of, pairs_of, texts_of
from hf_soups.demo.examples import default_examples
from hf_soups.demo.journeys import Always, Journey, journeys
from hf_soups.demo.views import answers_csv, batch_view, frontier_view, journey_view, message, plan_view
from hf_soups.errors import InputError
from hf_soups.predictions import Predictions

LABELS = ("<b>cat</b>", "dog & co", "fox")
PLAN = Plan(("small", "large"), (0.75,), (1e6, 5e6), score=0.81, average_cost=2e6, rows=500, unit="macs")
ALWAYS = Always("large", 5e6)


def ways() -> list[Journey]:
    small = Predictions.from_probs([[0.8, 0.15, 0.05], [0.5, 0.3, 0.2]]).log_probs
    large = Predictions.from_probs([[0.1, 0.2, 0.7]]).log_probs
    return journeys(PLAN, [(np.arange(2), small), (np.array([1]), large)], 2)


def words(html: str) -> str:
    """What a reader sees."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).strip()


def test_an_answer_at_the_first_member_says_what_was_saved_and_who_was_not_asked() -> None:
    html = journey_view(ways()[0], PLAN, LABELS, ALWAYS)
    assert "<b>cat" not in html
    assert "&lt;b&gt;cat&lt;/b&gt;" in html
    told = words(html)
    assert "Answered by small (member 1 of 2) Cost 1 M MACs Against large for every input 20%: 80% saved" in told
    assert "confidence 0.800, at or above the threshold of 0.750: answers" in told
    assert "2. large not asked" in told
    assert "Together so far" not in told  # one member alone


def test_an_answer_at_the_last_member_shows_each_ones_own_and_common_probabilities() -> None:
    told = words(journey_view(ways()[1], PLAN, LABELS, ALWAYS))
    assert "Answer fox with probability 45.0%" in told
    assert "Cost 6 M MACs Against large for every input 120%: 20% more" in told
    assert "confidence 0.500, below the threshold of 0.750: asks the next member" in told
    assert "Class Alone Together so far fox 70.0% 45.0%" in told
    last = replace(PLAN, rule=Rule("last"))
    assert "Together so far" not in journey_view(ways()[1], last, LABELS, ALWAYS)  # it is the member's own


def test_a_batch_says_what_it_came_to_and_names_what_could_not_be_read() -> None:
    html = batch_view(["a.png", "<i>b</i>.png", "c.png"], [*ways(), "c.png is <broken>"], PLAN, LABELS, ALWAYS)
    told = words(html)
    assert "Answered 2 of 3 Answered by small 1 (50.0%), large 1 (50.0%)" in told
    assert "Average cost 3.5 M MACs per example, 70% of asking large for every input (5 M): 30% saved" in told
    assert "&lt;i&gt;b" in html
    assert "c.png is &lt;broken&gt;" in html
    assert html.count("<tr>") == 4
    assert "None of these could be read" in batch_view(["c.png"], ["broken"], PLAN, LABELS, ALWAYS)


def test_of_a_single_model_nothing_is_said_of_members_and_savings() -> None:
    plan, always = Plan(("soup",), (), (1e6,), unit="parameters"), Always("soup", 1e6, alone=True)
    way = journeys(plan, [(np.arange(1), Predictions.from_probs([[0.8, 0.15, 0.05]]).log_probs)], 1)[0]
    for html in (journey_view(way, plan, LABELS, always), batch_view(["a"], [way], plan, LABELS, always)):
        told = words(html)
        assert not re.search("saved|member|Answered by|every input|share of", told), told


def test_a_batch_is_a_csv_file_too_that_no_spreadsheet_takes_for_formulas() -> None:
    text = answers_csv(["=a.png", "b.png"], [ways()[0], "b.png is broken"], PLAN, LABELS)
    assert text.splitlines() == [
        "input,answer,probability,answered_by,cost,unit,error", "'=a.png,<b>cat</b>,0.800000,small,1e+06,macs,",
        "b.png,,,,,,b.png is broken",
    ]  # fmt: skip


def test_a_plan_is_told_with_score_and_average_cost() -> None:
    told = words(plan_view(PLAN, 1, 3, 1, ALWAYS))
    assert told.startswith(
        "Plan 2 of 3, the one it was built with small (answers at confidence 0.750 or more), then large"
    )
    assert "accuracy 81.0 (x 100) on the 500 rows that the plans were chosen on, so optimistic" in told
    assert "2 M MACs per example, 40% of asking large for every input (5 M): 60% saved" in told


def test_the_frontier_is_drawn_where_there_is_one() -> None:
    plans = [replace(PLAN, score=s, average_cost=c) for s, c in ((0.7, 1e6), (0.8, 2e6), (0.85, 4e6))]
    html = frontier_view(plans, 1)
    assert html.count("<circle") == 3
    assert html.count('class="hs-now"') == 1
    xs = [float(x) for x in re.findall(r'points="([^"]*)"', html)[0].replace(",", " ").split()[::2]]
    assert xs == pytest.approx([8, 8 + 304 / 3, 312], abs=0.06)
    assert "plan 2 is marked" in html
    assert frontier_view([PLAN], 0) == ""
    assert frontier_view([replace(PLAN, score=float("nan")), PLAN], 1) == ""


def test_a_mark_stands_at_a_threshold_that_can_be_reached() -> None:
    assert "hs-mark" in journey_view(ways()[0], PLAN, LABELS, ALWAYS)
    never = replace(PLAN, thresholds=(NEVER,))
    small = Predictions.from_probs([[0.8, 0.15, 0.05]]).log_probs
    way = journeys(never, [(np.arange(1), small), (np.arange(1), small)], 1)[0]
    assert "hs-mark" not in journey_view(way, never, LABELS, ALWAYS)


def test_messages_are_escaped_and_announced() -> None:
    assert message("<x>", wrong=True) == '<p class="hs-alert" role="alert">&lt;x&gt;</p>'


def test_lines_become_texts_and_pairs() -> None:
    assert texts_of("one\n\n  two \n") == ["one", "two"]
    assert pairs_of("a ||| b\n\nc\td\n") == [("a", "b"), ("c", "d")]
    for bad in ("a b", "a ||| ", "a ||| b ||| c"):
        with pytest.raises(InputError, match=r"line 2: .* is no pair"):
            pairs_of(f"a ||| b\n{bad}")


def test_without_named_examples_those_of_the_folder_or_of_the_data_beside_it_are_taken(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    cascade = tmp_path / "cascade"
    (tmp_path / "words").mkdir()
    cascade.mkdir()
    assert default_examples(cascade, "text") == ()
    rows = datasets.Dataset.from_dict({"text": [f"film {i}" for i in range(30)], "label": [0, 1] * 15})
    rows.to_parquet(tmp_path / "words" / "test-00000-of-00001.parquet")
    task = {"name": "words", "kind": "text", "path": "./words", "text": ["text"], "label": "label", "report": "test"}
    evidence = {"format": "hf_soups.evidence.v1", "recipe": {"task": task, "data": {}}}
    (cascade / "evidence.json").write_text(json.dumps(evidence))
    assert default_examples(cascade, "text") == [f"film {i}" for i in range(0, 24, 2)]
    (cascade / "examples.txt").write_text("a film\n")
    assert default_examples(cascade, "text") == ["a film"]
    (cascade / "examples").mkdir()
    Image.new("RGB", (4, 4)).save(cascade / "examples" / "a.png")
    assert default_examples(cascade, "image") == [cascade / "examples" / "a.png"]


def test_examples_are_images_of_a_folder_or_lines_of_a_file(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "deeper/c.webp"):
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "notes.txt").write_text("nothing")
    assert [p.relative_to(folder).as_posix() for p in examples_of(folder, "image")] == [
        "a.jpg",
        "b.png",
        "deeper/c.webp",
    ]
    assert examples_of(folder / "a.jpg", "image") == [folder / "a.jpg"]
    (tmp_path / "texts.txt").write_text("a film\n\na dull one\n")
    assert examples_of(tmp_path / "texts.txt", "text") == ["a film", "a dull one"]
    assert examples_of(None, "text") == ()
    for path, kind, said in (
        (tmp_path / "nowhere", "image", "no such folder or file of examples"),
        (folder / "notes.txt", "text-pair", "line 1: 'nothing' is no pair"),
        (folder, "text", "a folder, but the cascade takes texts"),
        (folder / "a.jpg", "text", "cannot be read as UTF-8 text"),
    ):
        with pytest.raises(InputError, match=said):
            examples_of(path, kind)
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="no examples in it"):
        examples_of(tmp_path / "bare", "image")
