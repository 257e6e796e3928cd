"""The whole diagnosis on tiny models: files, numbers against the stock library, resume, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from hf_soups.checkpoint import Checkpoint
from hf_soups.cli import app
from hf_soups.cooking import cook
from hf_soups.data import load_splits
from hf_soups.diagnosis import Diagnosis, diagnose, print_diagnosis
from hf_soups.errors import CheckpointError, HfSoupsError, IncompatibleCheckpoints, InputError
from hf_soups.finetune.run_record import RunRecord, write_run
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from hf_soups.recipe import load_recipe
from hf_soups.soups import Soup
from hf_soups.soups.ingredients import gather
from hf_soups.soups.scoring import SoupScorer
from tests.makers.pile import label, make_pile, make_sweep, near, oracle_predictions
from tests.makers.ties import turned
from tests.makers.tiny import tiny_bert

PICTURES = ("barriers", "angles", "plane", "soup_vs_ensemble")
SMALL = {"points": 1, "grid": 3, "tell": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three runs with its start and a greedy soup; diagnosed once."""
    folder = tmp_path_factory.mktemp("made")
    sweep = make_sweep(folder, models=3)
    shutil.copytree(folder / "pile" / "start", sweep / "start")
    cook([sweep], ("uniform", "greedy"), folder / "soups", tell=None)
    return sweep


@pytest.fixture(scope="module")
def found(made: Path) -> Diagnosis:
    return diagnose([made], **SMALL)


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pile(tmp_path_factory.mktemp("pile"), models=3)


def rows(found: Diagnosis, name: str) -> list[dict[str, str]]:
    with (found.folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def answers_of_mixture(sweep: Path, shares: dict[str, float], folder: Path) -> Predictions:
    """The oracle: weights summed in float64, saved, loaded by transformers, asked sentence by sentence."""
    first = sweep / next(iter(shares))
    shutil.copytree(first, folder)
    weights = {name: load_file(sweep / name / "model.safetensors") for name in shares}
    mixed = {
        key: sum(c * weights[name][key].astype(np.float64) for name, c in shares.items()).astype(np.float32)
        for key in weights[first.name]
    }
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    return oracle_predictions(folder, load_recipe(sweep / "recipe.yaml"), "select")


def accuracy(answers: Predictions) -> Any:
    """To compare with: rows that rounding may turn count either way."""
    return pytest.approx(METRICS["accuracy"].compute(answers), abs=1e-12 + turned(answers))


def test_every_picture_has_its_numbers_beside_it(found: Diagnosis) -> None:
    for name in PICTURES:
        assert (found.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert rows(found, name)
    assert {p.name for p in found.files} == {
        *(f"{name}.{kind}" for name in PICTURES for kind in ("csv", "png")), "diagnosis.md", "diagnosis.json",
    }  # fmt: skip
    assert all(p.is_file() for p in found.files)


def test_scores_along_a_line_are_those_of_saved_mixtures(made: Path, found: Diagnosis, tmp_path: Path) -> None:
    lines = rows(found, "barriers")
    assert [(r["a"], r["b"], r["share_of_b"]) for r in lines] == [
        (a, b, t)
        for a, b in (("run_00", "run_01"), ("run_00", "run_02"), ("run_01", "run_02"))
        for t in ("0.0", "0.5", "1.0")
    ]
    for i, row in enumerate(lines[:3]):
        t = float(row["share_of_b"])
        assert float(row["score"]) == accuracy(
            answers_of_mixture(made, {"run_00": 1 - t, "run_01": t}, tmp_path / str(i))
        )
    a, middle, b = (float(r["score"]) for r in lines[:3])
    assert float(lines[0]["barrier"]) == pytest.approx(max(0, (a + b) / 2 - middle))


def test_angles_and_gains_are_those_of_dense_arithmetic(made: Path, found: Diagnosis) -> None:
    start = load_file(made / "start/model.safetensors")

    def offset(run: str) -> np.ndarray:
        weights = load_file(made / run / "model.safetensors")
        return np.concatenate([(weights[k].astype(np.float64) - start[k]).ravel() for k in start])

    for row in rows(found, "angles"):
        u, v = offset(row["a"]), offset(row["b"])
        angle = math.degrees(math.acos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        assert float(row["angle_degrees"]) == pytest.approx(angle, abs=0.01)
        ends = float(row["score_a"]), float(row["score_b"])
        assert float(row["gain_over_mean"]) == pytest.approx(float(row["score_average"]) - sum(ends) / 2)
        assert float(row["gain_over_better"]) == pytest.approx(float(row["score_average"]) - max(ends))


def test_points_of_the_plane_are_scores_of_saved_mixtures(made: Path, found: Diagnosis, tmp_path: Path) -> None:
    points = rows(found, "plane")
    assert [r["point"] for r in points[:9]] == ["grid"] * 9
    plane = found.facts.plane
    assert plane is not None
    assert [r["point"] for r in points[9:]] == [*plane.names, "average"]
    for i in (0, 5, 12):
        shares = {name: float(points[i][f"coefficient_of_{name}"]) for name in plane.names}
        assert sum(shares.values()) == pytest.approx(1)
        # one of 50 rows may turn on the last bits of the coefficients
        expected = METRICS["accuracy"].compute(answers_of_mixture(made, shares, tmp_path / str(i)))
        assert float(points[i]["score"]) == pytest.approx(expected, abs=0.02 + 1e-9)
    at = {name: load_file(made / name / "model.safetensors") for name in plane.names}
    for (name, (x, y)), (other, (u, v)) in zip(
        list(zip(plane.names, plane.corners, strict=True))[:2],
        list(zip(plane.names, plane.corners, strict=True))[1:],
        strict=True,
    ):
        apart = math.sqrt(sum(((at[name][k].astype(float) - at[other][k]) ** 2).sum() for k in at[name]))
        assert math.hypot(x - u, y - v) == pytest.approx(apart, rel=1e-3)


def test_a_soup_stands_beside_the_ensemble_of_the_same_runs(made: Path, found: Diagnosis) -> None:
    split = load_splits(load_recipe(made / "recipe.yaml").task, load_recipe(made / "recipe.yaml").data).select
    table = rows(found, "soup_vs_ensemble")
    assert [r["kind"] for r in table[:3]] == ["pair"] * 3
    assert table[3]["name"] == "uniform"
    for row in table:
        logs = [
            Predictions.load(made / run / "predictions/select.safetensors").log_probs for run in row["runs"].split()
        ]
        right = np.mean(np.mean(logs, axis=0).argmax(axis=1) == split.labels)
        assert float(row["ensemble"]) == pytest.approx(right)
    soup = Predictions.load(made.parent / "soups/uniform/predictions/select.safetensors")
    assert float(table[3]["soup"]) == METRICS["accuracy"].compute(soup)
    assert found.facts.uniform.name == "uniform"


def test_the_words_tell_what_greedy_did_and_stand_in_the_files(made: Path, found: Diagnosis) -> None:
    greedy = json.loads((made.parent / "soups/greedy/soup.json").read_text())
    text = "\n".join(found.words)
    kept = [i["name"] for i in greedy["ingredients"]]
    assert ("alone" if len(kept) == 1 else ", ".join(kept)) in text
    page = (found.folder / "diagnosis.md").read_text()
    assert all(words in page for words in found.words)
    assert all(f"![{name}]({name}.png)" in page for name in PICTURES)
    record = json.loads((found.folder / "diagnosis.json").read_text())
    assert record["words"] == list(found.words)
    assert record["pairs"][0]["barrier"] == found.facts.pairs[0].line.barrier
    assert (record["points"], record["grid"]) == (1, 3)


def test_the_words_are_printed(found: Diagnosis, capsys: pytest.CaptureFixture[str]) -> None:
    print_diagnosis(found)
    printed = capsys.readouterr().out
    assert all(words in printed for words in found.words)
    assert str(found.folder) in printed


def test_the_command_takes_the_same_options(made: Path, found: Diagnosis, tmp_path: Path) -> None:
    shown = CliRunner().invoke(
        app, ["diagnose", str(made), "--out", str(tmp_path / "out"), "--pairs", "1", "--points", "1", "--grid", "0"]
    )
    assert shown.exit_code == 0
    (pair,) = json.loads((tmp_path / "out/diagnosis.json").read_text())["pairs"]
    assert pair["line"]["scores"] in [list(p.line.scores) for p in found.facts.pairs]
    assert "mixtures: 1 of 1" in shown.stdout  # the uniform soup was cooked before
    assert "Measured: 1 of 3 pairs" in shown.stdout


class Killed(BaseException):
    """What kill does, as far as a test can."""


def test_a_killed_diagnosis_goes_on_without_asking_twice(
    made: Path, found: Diagnosis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple] = []
    plain, stop = SoupScorer.predictions, [5]

    def counted(self: SoupScorer, soup: Soup) -> float:
        if len(asked) == stop[0]:
            raise Killed
        asked.append((soup.ingredients, soup.coefficients))
        return plain(self, soup)  # type: ignore[return-value]

    monkeypatch.setattr(SoupScorer, "predictions", counted)
    with pytest.raises(Killed):
        diagnose([made], tmp_path / "out", **SMALL)
    assert not list((tmp_path / "out").glob("*.png"))
    stop[0] = -1
    again = diagnose([made], tmp_path / "out", **SMALL)
    assert len(asked) == len(set(asked)) == 3 + 9 + 1  # middles, the plane, its mean; uniform was cooked
    assert again.facts == found.facts
    asked.clear()
    diagnose([made], tmp_path / "out", **SMALL)
    assert asked == []
    diagnose([made], tmp_path / "out", **{**SMALL, "points": 3})
    assert len(asked) == 6  # only the quarters are new


def test_plain_checkpoints_are_asked_once_and_have_no_angles_without_a_start(
    pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [str(pile / f"m{i}") for i in range(3)]
    options = {"recipe": pile / "recipe.yaml", **SMALL}
    first = diagnose(models, tmp_path / "out", **options)
    assert not (first.folder / "angles.png").exists()
    assert any("No start is known" in words for words in first.words)
    oracle = oracle_predictions(pile / "m1", load_recipe(pile / "recipe.yaml"), "select")
    assert first.facts.single("m1").score == accuracy(oracle)
    monkeypatch.setattr(SoupScorer, "predictions", lambda *_: pytest.fail("it was asked before"))
    second = diagnose(models, tmp_path / "out", start=pile / "start", **options)
    assert (second.folder / "angles.png").exists()
    assert [p.line for p in second.facts.pairs] == [p.line for p in first.facts.pairs]
    third = diagnose(models, tmp_path / "out", **{**options, "grid": 0})
    assert not {p.name for p in third.folder.iterdir()} & {"angles.png", "angles.csv", "plane.png", "plane.csv"}


def test_fewer_rows_keep_the_shares_of_classes_and_are_said(made: Path, tmp_path: Path) -> None:
    few = diagnose([made], tmp_path / "out", rows=21, **SMALL)
    assert (few.facts.rows, few.facts.all_rows) == (21, 50)
    assert "21 select rows (a subset of 50)" in "\n".join(few.words)
    score = few.facts.single("run_00").score
    assert score * 21 == pytest.approx(round(score * 21))
    assert [m.soup * 21 for m in few.facts.soups] == pytest.approx([round(m.soup * 21) for m in few.facts.soups])


def test_for_a_metric_where_lower_is_better_the_barrier_is_a_rise(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, models=2, metric="nll")
    found = diagnose([sweep], points=1, grid=0, tell=None)
    (pair,) = found.facts.pairs
    expected = METRICS["nll"].compute(answers_of_mixture(sweep, {"run_00": 0.5, "run_01": 0.5}, tmp_path / "mixed"))
    assert pair.line.middle == pytest.approx(expected, rel=1e-5)
    ends = [found.facts.single(f"run_0{i}").score for i in range(2)]
    assert pair.line.barrier == pytest.approx(max(0, expected - sum(ends) / 2), abs=1e-5)
    assert found.facts.best.score == min(ends)


def test_failed_runs_are_named_in_the_words(made: Path, tmp_path: Path) -> None:
    sweep = shutil.copytree(made, tmp_path / "sweep", ignore=shutil.ignore_patterns("diagnosis", "soups"))
    shutil.rmtree(sweep / "run_02")
    (sweep / "run_02").mkdir()
    write_run(sweep / "run_02", RunRecord("nan-loss", "NaN at step 7", recipe={"train": {"learning_rate": 0.5}}))
    found = diagnose([sweep], pairs=1, **SMALL)
    assert [a.settings for a in found.facts.absent] == [{"learning_rate": 0.5}]
    assert any("run_02 was not measured: nan-loss (NaN at step 7)" in words for words in found.words)
    assert any("No plane: it takes three runs" in words for words in found.words)


def test_a_soup_that_is_gone_is_said_and_not_fatal(made: Path, tmp_path: Path) -> None:
    sweep = shutil.copytree(made, tmp_path / "sweep", ignore=shutil.ignore_patterns("diagnosis"))
    found = diagnose([sweep], pairs=1, points=1, grid=0, tell=None)  # its pointers lead nowhere from here
    assert any("The greedy soup is left out" in words and "Cook it again" in words for words in found.words)
    assert found.facts.greedy is None


def test_a_run_that_answers_nan_is_said_and_not_fatal(pile: Path, tmp_path: Path) -> None:
    broken = near(pile / "m0", tmp_path / "broken", seed=7)
    weights = load_file(broken / "model.safetensors")
    weights["bert.encoder.layer.0.attention.self.query.weight"][:] = 3e38  # finite, but what it makes is not
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    found = diagnose(
        [pile / "m0", pile / "m1", broken], tmp_path / "out", recipe=pile / "recipe.yaml", points=1, grid=0, tell=None
    )
    assert math.isnan(found.facts.single("broken").score)
    assert len(found.facts.pairs) == 1
    assert any("broken answers NaN" in words for words in found.words)
    other = Path(shutil.copytree(broken, tmp_path / "other"))
    with pytest.raises(HfSoupsError, match="all 2 runs answer NaN"):
        diagnose([broken, other], tmp_path / "none", recipe=pile / "recipe.yaml", tell=None)


# --- what is refused


def test_one_run_without_data_is_refused(pile: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two finished checkpoints, got 1"):
        diagnose([pile / "m0"], tmp_path / "out", tell=None)
    with pytest.raises(InputError, match=r"needs a task and data: give a recipe \(`recipe`\)"):
        diagnose([pile / "m0", pile / "m1"], tmp_path / "out", tell=None)
    assert not (tmp_path / "out").exists()


def test_a_missing_or_foreign_start_is_refused(pile: Path, tmp_path: Path) -> None:
    models, options = [pile / "m0", pile / "m1"], {"recipe": pile / "recipe.yaml", **SMALL}
    with pytest.raises(CheckpointError, match="nowhere"):
        diagnose(models, tmp_path / "out", start=tmp_path / "nowhere", **options)
    assert not (tmp_path / "out").exists()
    other = label(tiny_bert(tmp_path / "other", hidden_size=16, intermediate_size=32), ("bad", "good"))
    with pytest.raises(IncompatibleCheckpoints):
        diagnose(models, tmp_path / "out", start=other, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 2}, "a grid of 2 points a side"),
        ({"points": 0}, "at least 1 of each"),
        ({"rows": 1}, "1 rows; give at least 2"),
        ({"batchnorm": "recomputed"}, "have no BatchNorm"),
    ],
)
def test_options_that_cannot_be_used_are_refused(made: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        diagnose([made], tmp_path / "out", tell=None, **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_things_is_not_written_into(made: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files and no diagnosis"):
        diagnose([made], tmp_path, tell=None)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file"):
        diagnose([made], tmp_path / "thesis.txt", tell=None)


def test_the_pool_is_the_one_that_is_cooked_from(made: Path, found: Diagnosis) -> None:
    assert [s.name for s in found.facts.singles] == [c.name for c in gather([made]).checkpoints]
    assert Checkpoint(made / "start").config["model_type"] == "bert"
