"""Answers made elsewhere as members of a pool: read, joined by row and by class, with a cost; then searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hf_soups import add_answers, read_pool
from hf_soups.cascades import Frontier
from hf_soups.cli import app
from hf_soups.errors import InputError
from hf_soups.pool.elsewhere import set_cost
from hf_soups.pool_jobs import search_pool
from hf_soups.predictions import Predictions
from tests.pool_jobs.made_pool import made_pool

NAMES = ("cat", "dog", "bird")
ROWS = 60
IDS = [f"r{i:02d}" for i in range(ROWS)]
RNG = np.random.default_rng(0)
TRUE = RNG.integers(3, size=ROWS)
LOGITS = RNG.normal(size=(ROWS, 3)) + 3 * np.eye(3)[TRUE]
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def table(columns: tuple[str, ...] = NAMES, values: np.ndarray = PROBS, **more: Any) -> pd.DataFrame:
    numbers = dict(zip(columns, values.T, strict=True))
    return pd.DataFrame({"id": IDS, "truth": [NAMES[i] for i in TRUE], **numbers, **more})


def pool_of(at: Path, frame: pd.DataFrame | None = None, **how: Any) -> Path:
    """A pool made of one table of probabilities."""
    at.mkdir(exist_ok=True)
    (at / "first.csv").write_text((table() if frame is None else frame).to_csv(index=False))
    add_answers(at / "preds", "first", at / "first.csv", labels="truth", cost=1, unit="dollars", **how)
    return at / "preds"


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def test_a_pool_is_made_of_a_table_with_ids_labels_and_a_cost(tmp_path: Path) -> None:
    pool = read_pool(pool_of(tmp_path))
    p = pool.predictions["first"]
    assert (pool.label_names, pool.data.rows, pool.data.split) == (NAMES, ROWS, "select")
    assert (p.row_ids.tolist(), p.needs_labels().tolist()) == (IDS, TRUE.tolist())
    np.testing.assert_allclose(p.probs, PROBS, atol=1e-6)
    assert pool.costs("dollars")["first"].value == 1
    assert not pool.members["first"].has_model


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "parquet", "jsonl", "semicolon.csv"])
@pytest.mark.parametrize("values", [PROBS, np.log(PROBS), LOGITS], ids=["probs", "log-probs", "logits"])
def test_a_member_joins_by_row_and_class_whatever_the_file(tmp_path: Path, ending: str, values: np.ndarray) -> None:
    preds, path = pool_of(tmp_path), tmp_path / f"more.{ending}"
    frame = table(("p_BIRD", "p_cat", "p_dog"), values[:, [2, 0, 1]]).sample(frac=1, random_state=0)
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True, double_precision=15)
    else:
        frame.to_csv(path, index=False, sep={"tsv": "\t", "semicolon.csv": ";"}.get(ending, ","))
    add_answers(preds, "more", path)
    pool = read_pool(preds)
    np.testing.assert_allclose(pool.predictions["more"].probs, PROBS, atol=1e-5)
    assert pool.predictions["more"].aligned_to(pool.predictions["first"]).row_ids.tolist() == IDS


def test_an_array_without_ids_is_joined_by_order_and_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", LOGITS)
    added = add_answers(pool_of(tmp_path), "timm", tmp_path / "logits.npy")
    np.testing.assert_allclose(added.pool.predictions["timm"].probs, PROBS, atol=1e-5)
    assert "its rows are joined by their order: it has no ids" in added.notes
    assert "taken as logits: some are negative, some positive" in added.notes


def test_arrays_with_files_of_labels_and_ids_make_a_pool(tmp_path: Path) -> None:
    np.save(tmp_path / "probs.npy", PROBS)
    (tmp_path / "labels.txt").write_text("\n".join(NAMES[i] for i in TRUE))
    pd.DataFrame({"name": IDS}).to_csv(tmp_path / "ids.csv", index=False)
    where = {"labels": str(tmp_path / "labels.txt"), "ids": f"{tmp_path / 'ids.csv'}#name"}
    with pytest.raises(InputError, match=r"labels \(bird, cat, dog\) are not what the columns.*`label_names`; of sci"):
        add_answers(tmp_path / "preds", "sk", tmp_path / "probs.npy", **where)
    p = add_answers(tmp_path / "preds", "sk", tmp_path / "probs.npy", label_names=NAMES, **where).pool.predictions["sk"]
    assert (p.row_ids.tolist(), p.needs_labels().tolist()) == (IDS, TRUE.tolist())


def test_a_file_of_labels_with_ids_is_joined_by_them(tmp_path: Path) -> None:
    table().drop(columns="truth").to_csv(tmp_path / "probs.csv", index=False)
    table()[["id", "truth"]].sample(frac=1, random_state=1).to_csv(tmp_path / "gold.csv", index=False)
    pool = add_answers(tmp_path / "preds", "a", tmp_path / "probs.csv", labels=str(tmp_path / "gold.csv")).pool
    p = pool.predictions["a"]
    found = dict(zip(p.row_ids.tolist(), p.needs_labels().tolist(), strict=True))
    assert found == dict(zip(IDS, TRUE.tolist(), strict=True))
    np.testing.assert_allclose(p.take(np.argsort(p.row_ids)).probs, PROBS, atol=1e-6)


def test_labels_are_joined_by_the_ids_that_the_user_names(tmp_path: Path) -> None:
    """`--ids image` was not looked for in the labels' file, so its rows were joined by order: 21% were right."""
    table().drop(columns="truth").rename(columns={"id": "image"}).to_csv(tmp_path / "probs.csv", index=False)
    gold = table()[["id", "truth"]].rename(columns={"id": "image"}).sample(frac=1, random_state=1)
    gold.to_csv(tmp_path / "gold.csv", index=False)
    made = add_answers(tmp_path / "preds", "a", tmp_path / "probs.csv", labels=str(tmp_path / "gold.csv"), ids="image")
    p = made.pool.predictions["a"]
    assert dict(zip(p.row_ids.tolist(), p.needs_labels().tolist(), strict=True)) == dict(
        zip(IDS, TRUE.tolist(), strict=True)
    )


def test_labels_without_ids_are_joined_by_order_and_that_is_said(tmp_path: Path) -> None:
    table().drop(columns="truth").to_csv(tmp_path / "probs.csv", index=False)
    table()[["truth"]].to_csv(tmp_path / "gold.csv", index=False)
    made = add_answers(tmp_path / "preds", "a", tmp_path / "probs.csv", labels=str(tmp_path / "gold.csv"))
    assert made.pool.predictions["a"].needs_labels().tolist() == TRUE.tolist()
    assert any("labels of" in note and "joined by the order of the rows" in note for note in made.notes)


@pytest.mark.parametrize("column", ["spam", "ham"])
def test_one_score_that_is_called_as_a_class_makes_a_pool(tmp_path: Path, column: str) -> None:
    scores = np.where(TRUE == 0, 0.9, 0.2)  # of spam
    frame = {"id": IDS, "truth": np.where(TRUE == 0, "spam", "ham"), column: scores if column == "spam" else 1 - scores}
    pool = pool_of(tmp_path / column, pd.DataFrame(frame))
    p = read_pool(pool).predictions["first"]
    assert p.label_names == ("ham", "spam")
    assert p.hits.all()


def test_one_score_without_a_name_does_not_say_whose_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.linspace(0.1, 0.9, ROWS))
    (tmp_path / "gold.txt").write_text("\n".join(np.where(TRUE == 0, "spam", "ham")))
    with pytest.raises(InputError, match=r"labels \(ham, spam\) are not what the columns .* called .*an array"):
        add_answers(tmp_path / "preds", "a", tmp_path / "scores.npy", labels=str(tmp_path / "gold.txt"))


def test_ids_and_labels_are_read_as_they_are_written(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"id": ["007", "08", "9"], "truth": ["NA", "null", "NA"], "NA": [0.9, 0.2, 1], "null": [0.1, 0.8, 0]}
    )
    p = read_pool(pool_of(tmp_path, frame)).predictions["first"]
    assert (p.row_ids.tolist(), p.label_names, p.needs_labels().tolist()) == (
        ["007", "08", "9"],
        ("NA", "null"),
        [0, 1, 0],
    )


@pytest.mark.parametrize("names", [("0", "1", "2"), ("1", "2", "3"), ("prob_0", "prob_1", "prob_2"), ("a", "b", "c")])
def test_labels_that_are_numbers_are_names_of_classes_or_their_places(tmp_path: Path, names: tuple[str, ...]) -> None:
    frame = table(names).assign(truth=TRUE + (1 if names[0] == "1" else 0))
    pool = read_pool(pool_of(tmp_path, frame))
    assert pool.predictions["first"].needs_labels().tolist() == TRUE.tolist()


@pytest.mark.parametrize(("column", "values"), [("spam", [0.1, 0.9]), ("score", [0.1, 0.9]), ("ham", [0.9, 0.1])])
def test_one_score_a_row_is_of_the_second_class_or_of_the_one_it_is_called(
    tmp_path: Path, column: str, values: list[float]
) -> None:
    frame = pd.DataFrame({"id": [1, 2], "truth": ["ham", "spam"], column: values})
    p = read_pool(pool_of(tmp_path, frame, label_names=("ham", "spam"))).predictions["first"]
    np.testing.assert_allclose(p.probs[:, 1], [0.1, 0.9], atol=1e-6)


@pytest.mark.parametrize("values", ["log-probs", "logits"])
def test_one_number_a_row_may_be_a_logarithm_or_a_logit_of_either_class(tmp_path: Path, values: Any) -> None:
    second = np.array([0.1, 0.9])
    preds = pool_of(tmp_path, pd.DataFrame({"id": [1, 2], "truth": ["a", "b"], "b": second}), label_names=("a", "b"))
    for name, p in (("b", second), ("a", 1 - second)):
        numbers = np.log(p) if values == "log-probs" else np.log(p / (1 - p))
        pd.DataFrame({"id": [1, 2], name: numbers}).to_csv(tmp_path / "one.csv", index=False)
        pool = add_answers(preds, name, tmp_path / "one.csv", values=values).pool
        np.testing.assert_allclose(pool.predictions[name].probs[:, 1], second, atol=1e-6)


def test_lists_in_one_column_are_the_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": IDS, "answer": TRUE, "log_probs": list(np.log(PROBS))})
    frame.to_parquet(tmp_path / "pushed.parquet")
    p = add_answers(pool_of(tmp_path), "pushed", tmp_path / "pushed.parquet").pool.predictions["pushed"]
    np.testing.assert_allclose(p.probs, PROBS, atol=1e-5)


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("txt", " "), ("tsv", "\t"), ("csv.gz", ";")])
def test_lines_of_numbers_without_a_header_are_an_array(tmp_path: Path, ending: str, separator: str) -> None:
    np.savetxt(tmp_path / f"saved.{ending}", PROBS, delimiter=separator)
    p = add_answers(pool_of(tmp_path), "saved", tmp_path / f"saved.{ending}").pool.predictions["saved"]
    np.testing.assert_allclose(p.probs, PROBS, atol=1e-6)


def test_ids_of_a_file_of_their_own_are_read_as_they_are_written(tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", PROBS[:2])
    (tmp_path / "names.csv").write_text("name\n007\n08\n")
    (tmp_path / "gold.csv").write_text("name,animal\n08,dog\n007,cat\n")
    with pytest.raises(
        InputError, match=r"it is not clear which of the columns name, animal is meant.*gold.csv#COLUMN"
    ):
        add_answers(tmp_path / "p", "a", tmp_path / "two.npy", labels=str(tmp_path / "gold.csv"), label_names=NAMES)
    (tmp_path / "gold.csv").write_text("id,animal\n08,dog\n007,cat\n")
    where = {"ids": str(tmp_path / "names.csv"), "labels": str(tmp_path / "gold.csv")}
    p = add_answers(tmp_path / "p", "a", tmp_path / "two.npy", label_names=NAMES, **where).pool.predictions["a"]
    assert (p.row_ids.tolist(), p.needs_labels().tolist()) == (["08", "007"], [1, 0])


def test_names_of_columns_outweigh_the_order_of_label_names(tmp_path: Path) -> None:
    frame = table(("bird", "dog", "cat"), PROBS[:, [2, 1, 0]], confidence=PROBS.max(axis=1))
    p = read_pool(pool_of(tmp_path, frame, label_names=NAMES)).predictions["first"]
    assert p.label_names == NAMES
    np.testing.assert_allclose(p.probs, PROBS, atol=1e-6)


def test_label_names_name_columns_without_names_of_classes(tmp_path: Path) -> None:
    frame = table(("c", "a", "b"), PROBS[:, [2, 0, 1]])
    p = read_pool(pool_of(tmp_path, frame, label_names=("bird", "cat", "dog"))).predictions["first"]
    assert p.label_names == ("bird", "cat", "dog")
    np.testing.assert_allclose(p.probs, PROBS[:, [2, 0, 1]], atol=1e-6)
    frame.assign(confidence=PROBS.max(axis=1)).to_csv(tmp_path / "four.csv", index=False)
    with pytest.raises(
        InputError, match=r"3 label names for 4 columns of numbers \(c, a, b, confidence\). Name the col"
    ):
        add_answers(tmp_path / "preds", "x", tmp_path / "four.csv", label_names=("bird", "cat", "dog"))


def test_probabilities_a_little_below_0_are_not_taken_for_logits(tmp_path: Path) -> None:
    careless = PROBS.copy()
    careless[3] = [-1e-9, 0.5, 0.5 + 1e-9]
    table(values=careless).to_csv(tmp_path / "careless.csv", index=False)
    with pytest.raises(InputError, match="it is not clear what they are"):
        add_answers(pool_of(tmp_path), "x", tmp_path / "careless.csv")


def test_numbers_by_class_in_one_column_are_the_classes(tmp_path: Path) -> None:
    preds, path = pool_of(tmp_path), tmp_path / "llm.jsonl"
    said = [
        {"id": row, "logprobs": dict(zip(NAMES, np.log(p).tolist(), strict=True))}
        for row, p in zip(IDS, PROBS, strict=False)
    ]
    path.write_text("\n".join(map(json.dumps, said)))
    np.testing.assert_allclose(add_answers(preds, "llm", path).pool.predictions["llm"].probs, PROBS, atol=1e-5)
    del said[3]["logprobs"]["dog"]  # type: ignore[attr-defined]
    path.write_text("\n".join(map(json.dumps, said)))
    with pytest.raises(InputError, match=r"1 rows lack a number \(first: r03\)"):
        add_answers(preds, "other", path)


def test_saved_predictions_join_a_pool_or_make_one(tmp_path: Path) -> None:
    Predictions.from_probs(PROBS, labels=TRUE, row_ids=IDS, label_names=NAMES).save(tmp_path / "own.safetensors")
    joined = add_answers(pool_of(tmp_path), "own", tmp_path / "own.safetensors").pool
    made = add_answers(tmp_path / "new", "own", tmp_path / "own.safetensors", labels="label").pool
    for pool in (joined, made):
        np.testing.assert_allclose(pool.predictions["own"].probs, PROBS, atol=1e-5)
        assert pool.predictions["own"].needs_labels().tolist() == TRUE.tolist()


def test_rounded_probabilities_are_taken_and_others_need_normalise(tmp_path: Path) -> None:
    preds = pool_of(tmp_path)
    table(values=PROBS.round(2)).to_csv(tmp_path / "rounded.csv", index=False)
    np.testing.assert_allclose(
        add_answers(preds, "r", tmp_path / "rounded.csv").pool.predictions["r"].probs, PROBS, atol=0.01
    )
    table(values=100 * PROBS).to_csv(tmp_path / "percent.csv", index=False)
    with pytest.raises(InputError, match=r"rows sum to 100 \(the first\).*`values` probs.*`normalise=True`"):
        add_answers(preds, "p", tmp_path / "percent.csv")
    found = add_answers(preds, "p", tmp_path / "percent.csv", normalise=True)
    np.testing.assert_allclose(found.pool.predictions["p"].probs, PROBS, atol=1e-6)


def cut(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[2:]


def grown(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame.iloc[:1].assign(id="new")])


def torn(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(cat=[np.nan if i == "r07" else v for i, v in zip(frame["id"], frame["cat"], strict=True)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, r"2 missing \(first: r00, r01\)\. Answer every row"),
        (grown, r"1 surplus \(first: new\)\. Leave them out with `drop_surplus=True`"),
        (lambda f: cut(grown(f)), r"2 missing \(first: r00, r01\), 1 surplus \(first: new\)"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "row id 'r00' occurs more than once"),
        (torn, r"1 rows lack a number \(first: r07\)"),
        (lambda f: f.drop(columns=list(NAMES)), "no columns of numbers among id, truth"),
        (lambda f: f.rename(columns={"cat": "horse"}), r"its columns \(horse, dog, bird\) are not the classes"),
        (lambda f: f.drop(columns="id").iloc[1:], "59 rows for 60 of the pool, and no ids say which"),
        (lambda f: f.assign(cat=1 - f["cat"]), "it is not clear what they are. Say it with `values`"),
    ],
)
def test_what_cannot_be_joined_is_named(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    preds = pool_of(tmp_path)
    change(table()).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(InputError, match=message):
        add_answers(preds, "bad", tmp_path / "bad.csv")
    assert list(read_pool(preds).members) == ["first"]


def test_surplus_rows_can_be_dropped_and_are_counted(tmp_path: Path) -> None:
    preds = pool_of(tmp_path)
    grown(table()).to_csv(tmp_path / "more.csv", index=False)
    added = add_answers(preds, "more", tmp_path / "more.csv", drop_surplus=True)
    assert "1 rows that the pool does not have are left out (first: new)" in added.notes


def test_labels_for_a_pool_that_is_there_must_be_its_own(tmp_path: Path) -> None:
    preds, frame = pool_of(tmp_path), table()
    frame.to_csv(tmp_path / "same.csv", index=False)
    add_answers(preds, "same", tmp_path / "same.csv", labels="truth")
    frame.loc[5, "truth"] = NAMES[(TRUE[5] + 1) % 3]
    frame.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match="truth: row r05 has the label"):
        add_answers(preds, "other", tmp_path / "other.csv", labels="truth")


def test_columns_in_another_order_are_not_taken_for_the_classes(tmp_path: Path) -> None:
    np.save(
        tmp_path / "shuffled.npy", np.exp(12 * LOGITS[:, [1, 2, 0]]) / np.exp(12 * LOGITS).sum(axis=1, keepdims=True)
    )
    with pytest.raises(
        InputError, match=r"taken to be in the order of the classes \(cat, dog, bird\), but it is right"
    ):
        add_answers(pool_of(tmp_path), "x", tmp_path / "shuffled.npy")


def test_predictions_of_models_and_answers_from_elsewhere_share_a_pool(tmp_path: Path) -> None:
    preds = made_pool(tmp_path / "preds", 2, rows=80)
    first = read_pool(preds).predictions["m0"]
    np.save(tmp_path / "llm.npy", np.asarray(first.probs)[:, :])
    add_answers(preds, "llm", tmp_path / "llm.npy", cost=0.004, unit="dollars", assume_label_order=True)
    pool = read_pool(preds)
    with pytest.raises(
        InputError, match=r"llm: its MACs per example were not measured. Give it .hf-soups pool cost POOL ll"
    ):
        pool.costs("macs")
    with pytest.raises(InputError, match=r"'dollars' is no unit of costs.*It is known in: macs, parameters"):
        pool.costs("dollars")
    for name in ("m0", "m1"):
        set_cost(preds, name, 0.0001, "dollars")
    assert read_pool(preds).unit() == "dollars"
    assert [c.value for c in read_pool(preds).costs("dollars").values()] == [0.0001, 0.0001, 0.004]


def test_ensembles_need_no_costs_and_searches_say_who_lacks_them(tmp_path: Path) -> None:
    preds = pool_of(tmp_path)
    table().to_csv(tmp_path / "free.csv", index=False)
    add_answers(preds, "free", tmp_path / "free.csv")
    assert "Costs are not known of all members" in " ".join(run("ensemble", preds).output.split())
    with pytest.raises(InputError, match=r"no cost is known of all members in one unit \(first: dollars; free: none\)"):
        search_pool(preds)
    set_cost(preds, "free", 2, "dollars")
    assert search_pool(preds, folds=0).frontier.best_single.unit == "dollars"


def test_the_commands_take_a_pool_from_elsewhere_to_a_certificate_and_refuse_to_build_it(tmp_path: Path) -> None:
    preds = tmp_path / "preds"
    small = LOGITS + 2 * np.random.default_rng(1).normal(size=LOGITS.shape)
    table(values=small).to_csv(tmp_path / "small.csv")  # with the index that pandas writes
    table().to_csv(tmp_path / "llm.csv", index=False)
    money = ("--unit", "dollars")
    first = run("pool", "add", preds, f"small={tmp_path}/small.csv", "--labels", "truth", "--cost", 0.1, *money)
    assert first.exit_code == 0, first.exception
    added = run("pool", "add", preds, f"llm={tmp_path}/llm.csv", "--cost", 4, *money)
    assert (added.exit_code, "dollars" in added.output) == (0, True), added.output
    found = run("cascade", "search", preds, "--report", 0.5, "--folds", 0)
    assert "Costs in dollars" in found.output, found.output
    assert "no model here, so no cascade can be built of it" in found.output
    assert run("ensemble", preds, "--report", 0.5).exit_code == 0
    plans = Frontier.load(preds / "frontier.json").plans
    two = next(i for i, plan in enumerate(plans) if len(plan.members) == 2)
    certified = run("cascade", "certify", f"{preds}/frontier.json#{two}", "--max-loss", 0.9)
    assert "Certified with probability 0.95" in certified.output, certified.output
    built = run("cascade", "build", f"{preds}/frontier.json#{two}", "--out", tmp_path / "casc")
    assert "has no model here, only answers from small.csv" in str(built.exception)
    assert not (tmp_path / "casc").exists()
    assert json.loads((preds / "pool.json").read_text())["members"]["llm"]["costs"] == {"dollars": 4.0}


def test_a_new_pool_needs_labels_and_says_where_they_could_be(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "probs.csv", index=False)
    with pytest.raises(InputError, match=r"no pool yet, so the true labels are needed: .*id, truth, cat, dog, bird"):
        add_answers(tmp_path / "preds", "a", tmp_path / "probs.csv")
    assert not (tmp_path / "preds" / "pool.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x.csv",), "expected NAME=FILE"),
        (("a=none.csv",), "none.csv: no such file"),
        (("a=probs.csv", "--cost", 1), "--cost and --unit belong together"),
        (("a=probs.csv", "--cost", 1, "--unit", "seconds"), "seconds belong to the hardware"),
        (("a=probs.csv", "--cost", 1, "--unit", "a lot"), "'a lot' is no unit of costs"),
        (("a=probs.csv", "--labels", "gold"), "--labels gold: no such file, and no column of the answers"),
        (("a=probs.csv", "--labels", "truth", "--columns", "x,y"), "no column 'x'; there are: id, truth, cat"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table().to_csv("probs.csv", index=False)
    done = run("pool", "add", "preds", *words)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
