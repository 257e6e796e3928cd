"""Model cards: every figure is the files' own, the code runs, and a card that says otherwise is found out."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_soups.cascades.plan import Plan
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.recipe import Recipe
from hf_soups.reporting.cards.card import CardDetails, card_for, check_card, run_snippet, snippet_of, write_card
from hf_soups.reporting.cards.card_facts import classes_in_words, hub_ids
from hf_soups.reporting.cards.markdown import BEGIN, MarkdownTable, cells_of, run_code
from hf_soups.soups import Soup
from hf_soups.soups.soup import Step
from hf_soups.sweep.plan import make_plan
from tests.cascades.made import Made, make
from tests.makers.folders import change_json
from tests.makers.pile import NAMES, label, near
from tests.makers.tiny import tiny_bert, tiny_vit

COOKED = {
    "selected_on": "select",
    "optimistic": False,
    "metric": "accuracy",
    "select_rows": 400,
    "best_single": {"name": "m0", "score": 0.8125},
    "pool": ["m0", "m1", "m2"],
}
SCORES = {
    "singles": {"m0": 0.8125, "m1": 0.75},
    "select": {"accuracy": 0.8425, "nll": 0.40625, "ece": 0.0625},
    "report": {"accuracy": 0.8275, "nll": 0.4375, "ece": 0.078125},
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    folder = tmp_path_factory.mktemp("pair")
    start = label(tiny_bert(folder / "start"), NAMES)
    return [Checkpoint(near(start, folder / f"m{i}", seed=i)) for i in range(2)]


@pytest.fixture
def soup(pair: list[Checkpoint], tmp_path: Path) -> Path:
    steps = (Step("m0", 0.8125, 0.8125, True, 1), Step("m1", 0.8425, 0.8425, True, 2))
    made = Soup(tuple(pair), (0.75, 0.25), method="greedy", steps=steps, scores=SCORES, about=COOKED)
    return made.save_pretrained(tmp_path / "soup")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make("image", tmp_path_factory.mktemp("images"), rows=4)


def plan_of(pool: Made, **changes: Any) -> Plan:
    known: dict[str, Any] = {
        "thresholds": (0.875, 2.0), "costs": (100.0, 400.0, 1_600_000.0), "unit": "macs", "score": 0.90625,
        "score_low": 0.84375, "average_cost": 512.5, "exit_shares": (0.5, 0.25, 0.25), "rows": 320,
    }  # fmt: skip
    return Plan(tuple(pool.members), **{**known, **changes})


@pytest.fixture
def cascade(images: Made, tmp_path: Path) -> Path:
    return images.built(plan_of(images), tmp_path / "cascade")


def glue(path: str = "nyu-mll/glue") -> Recipe:
    return Recipe.model_validate({"task": {"name": "glue/rte", "path": path}, "model": "me/start"})


def index(card: ModelCard) -> dict[tuple[str, str], float]:
    return {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results or ()}


def test_a_soups_metadata_hold_what_the_hub_knows_and_nothing_was_chosen_on(soup: Path) -> None:
    read_back = ModelCard(str(card_for(soup, recipe=glue())))
    assert index(read_back) == {("validation", "accuracy"): SCORES["report"]["accuracy"]}  # no NLL, no ECE, no select
    assert read_back.data.eval_results[0].metric_name == "accuracy on report"
    card = ModelCard(str(card_for(soup)))
    assert "model-index" not in card.data.to_dict()  # of data that the folder does not name
    assert "model_name" not in card.data.to_dict()
    told = card.data.to_dict()
    assert (told["library_name"], told["pipeline_tag"], told["metrics"]) == (
        "transformers",
        "text-classification",
        ["accuracy"],
    )
    assert {"hf_soups", "model-soup", "merge", "greedy"} == set(told["tags"])
    assert "datasets" not in told  # the folder does not say


def test_names_that_look_like_html_are_shown_and_read_back() -> None:
    name = "a <b>|<img src=x onerror=alert(1)>"
    table = MarkdownTable("Members", ("Member", "Where"), ((name, "p < 0.01"),))
    text = f"## Members\n\n{table.markdown()}\n"
    assert "<" not in text
    assert cells_of(text) == table.cells == {("Members", name, "Where"): "p < 0.01"}
    assert classes_in_words("image", ("tench, Tinca tinca", "eel")).endswith("2 classes: tench, Tinca tinca; eel.")
    assert classes_in_words("text", ("<none>", "<b>x")) == "It sorts texts into 2 classes: &lt;none>, &lt;b>x."


def test_a_soups_tables_are_its_record(soup: Path) -> None:
    write_card(soup)
    cells = cells_of(card_for(soup).text)
    record = json.loads((soup / "soup.json").read_text())
    for told in record["ingredients"]:
        assert cells["Ingredients", told["name"], "SHA-256 of the weights"] == told["sha256"]
        assert float(cells["Ingredients", told["name"], "Coefficient"]) == told["coefficient"]
    assert cells["Results", "report: nothing was chosen on them", "accuracy"] == "82.8"
    assert cells["How it was chosen", "best single model on select rows", "Value"] == "m0: 81.2"
    assert cells["How it was chosen", "select rows", "Value"] == "400"
    # sqrt(0.8425 x 0.1575 / 400) = 0.0182
    assert cells["How it was chosen", "standard error of the score on select rows", "Value"] == "1.8"


def test_a_card_names_ingredients_by_sha256_where_their_folders_are_and_else_by_the_records_digest(
    soup: Path, tmp_path: Path
) -> None:
    shutil.copytree(soup, tmp_path / "elsewhere")
    before = json.loads((soup / "soup.json").read_text())["ingredients"]
    write_card(soup)
    written = json.loads((soup / "soup.json").read_text())["ingredients"]
    cells = cells_of((soup / "README.md").read_text())
    for told in written:
        assert told["sha256"] == Checkpoint(told["source"]).sha256()
        assert cells["Ingredients", told["name"], "SHA-256 of the weights"] == told["sha256"]
    change_json(tmp_path / "elsewhere/soup.json", "ingredients", 0, "source", to=str(tmp_path / "gone"))
    change_json(tmp_path / "elsewhere/soup.json", "ingredients", 1, "digest", to="xxh3-pieces:" + "0" * 32)
    write_card(tmp_path / "elsewhere")  # one is gone, the other has other weights now
    check_card(tmp_path / "elsewhere")
    cells = cells_of((tmp_path / "elsewhere/README.md").read_text())
    assert cells["Ingredients", before[0]["name"], "Digest of the weights"] == before[0]["digest"]
    assert cells["Ingredients", before[1]["name"], "Digest of the weights"] == "xxh3-pieces:" + "0" * 32


def test_a_soup_chosen_on_report_has_no_score_that_is_not_called_optimistic(soup: Path) -> None:
    change_json(soup / "soup.json", "selected_on", to="report")
    change_json(soup / "soup.json", "optimistic", to=True)
    change_json(soup / "soup.json", "scores", "select", to={})
    card = card_for(soup, recipe=glue())
    assert index(card) == {}
    write_card(soup, recipe=glue())
    assert not (soup / ".eval_results").exists()


def test_a_uniform_soups_scores_are_not_called_optimistic_for_nothing_was_chosen(soup: Path) -> None:
    change_json(soup / "soup.json", "steps", to=[])
    change_json(soup / "soup.json", "method", to="uniform")
    card = card_for(soup)
    assert cells_of(card.text)["Results", "select: nothing was chosen on them", "accuracy"] == "84.2"
    assert cells_of(card.text)["How it was chosen", "chosen on", "Value"] == "nothing: no score was looked at"
    change_json(soup / "soup.json", "batchnorm", to={"kept": "recomputed", "averaged": 0.5, "recomputed": 0.8425})
    assert "select: chosen on these rows, so optimistic" in card_for(soup).text


def test_a_score_that_could_not_be_computed_is_no_figure(soup: Path) -> None:
    change_json(soup / "soup.json", "scores", "report", "accuracy", to=None)
    card = card_for(soup, recipe=glue())
    assert index(card) == {}
    assert cells_of(card.text)["Results", "report: nothing was chosen on them", "accuracy"] == "-"


def test_a_soup_mixed_tensor_by_tensor_says_that_its_coefficients_are_means(
    pair: list[Checkpoint], tmp_path: Path
) -> None:
    rows = {name: (0.75, 0.25) for name in pair[0].tensors}
    folder = Soup.mixed_by_tensor(pair, rows, method="learned-by-tensor").save_pretrained(tmp_path / "by-tensor")
    assert "here is their mean over all parameters" in card_for(folder).text
    (folder / "score_by_ingredients.png").touch()
    assert "](score_by_ingredients.png)" in card_for(folder).text


def test_an_unscored_soup_has_a_card_without_figures(pair: list[Checkpoint], tmp_path: Path) -> None:
    folder = Soup(tuple(pair), (0.5, 0.5), method="uniform").save_pretrained(tmp_path / "plain")
    card = card_for(folder)
    assert "model-index" not in card.data.to_dict()
    assert "It was not scored" in card.text
    assert "## Results" not in card.text


def test_what_was_forced_or_kept_from_one_is_among_the_limits(pair: list[Checkpoint], tmp_path: Path) -> None:
    about = {"forced": ["/a/b: config.json differs"], "vocabulary": {"rows": 9, "averaged": 8}}
    folder = Soup(tuple(pair), (0.5, 0.5), method="uniform", about=about).save_pretrained(tmp_path / "soup")
    text = str(card_for(folder))
    assert "mixed although its ingredients read their input, or compute, in different ways" in text
    assert "Some rows of its vocabulary are one ingredient's own" in text
    assert "/a/b" not in text


def test_no_path_of_this_machine_is_in_a_card(soup: Path, cascade: Path) -> None:
    place = str(soup.parent.parent)
    change_json(soup / "soup.json", "ingredients", 0, "name", to=f"{place}/a/run")
    change_json(soup / "soup.json", "ingredients", 1, "name", to=f"{place}/b/run")
    change_json(soup / "soup.json", "pool", to=[f"{place}/a/run", f"{place}/b/run"])
    change_json(soup / "soup.json", "best_single", "name", to=f"{place}/b/run")
    change_json(soup / "soup.json", "why", to=f"greedy kept only {place}/a/run (84.2)")
    change_json(soup / "soup.json", "start", to=f"{place}/start")
    text = str(card_for(soup, recipe=glue(f"{place}/data")))
    assert place not in text
    assert "| b/run | 0.25 |" in text
    assert "greedy kept only a/run (84.2)" in text
    assert str(cascade.parent) not in str(card_for(cascade))


def test_base_models_are_the_hubs_ids_alone(soup: Path) -> None:
    assert "base_model" not in card_for(soup).data.to_dict()  # both are folders
    change_json(soup / "soup.json", "ingredients", 1, "source", to="org/tuned")
    change_json(soup / "soup.json", "ingredients", 1, "revision", to=COMMIT)
    card = card_for(soup)
    assert card.data.base_model == ["org/tuned"]
    assert card.data.to_dict()["base_model_relation"] == "merge"
    change_json(soup / "soup.json", "ingredients", 1, "source", to="/somewhere")
    started = card_for(soup, recipe=glue()).data.to_dict()
    assert (started["base_model"], started["base_model_relation"]) == (["me/start"], "finetune")
    change_json(soup / "soup.json", "ingredients", 1, "source", to="org/tuned")
    assert cells_of(card.text)["Ingredients", "m1", "Hub"] == f"org/tuned@{COMMIT}"


def test_what_looks_like_an_id_but_is_a_folder_near_by_is_no_base_model(tmp_path: Path) -> None:
    sources = [("runs/one", None), ("org/tuned", None), ("bert", None), ("bert", "main"), ("org/tuned", "v2")]
    assert hub_ids(sources, tmp_path / "a/soup") == ("runs/one", "org/tuned", "bert")
    (tmp_path / "runs/one").mkdir(parents=True)
    assert hub_ids(sources, tmp_path / "a/soup") == ("org/tuned", "bert")


def test_a_recipe_names_the_data_and_its_splits(soup: Path) -> None:
    card = card_for(soup, recipe=glue())
    assert card.data.datasets == ["nyu-mll/glue"]
    assert index(card)["validation", "accuracy"] == SCORES["report"]["accuracy"]
    assert card.data.eval_results[0].dataset_config == "rte"
    assert cells_of(card.text)["Data", "split for report", "Value"] == "validation"
    assert '"text_pair"' in snippet_of(card)


def test_the_report_score_alone_goes_to_eval_results(soup: Path) -> None:
    write_card(soup, recipe=glue())
    (entry,) = yaml.safe_load((soup / ".eval_results/hf_soups.yaml").read_text())
    assert entry["dataset"] == {"id": "nyu-mll/glue", "task_id": "rte"}
    assert entry["value"] == SCORES["report"]["accuracy"]
    check_card(soup)
    change_json(soup / "soup.json", "scores", "report", "accuracy", to=0.5)
    readme = (soup / "README.md").read_text().replace("0.8275", "0.5").replace("82.8", "50.0")
    (soup / "README.md").write_text(readme)  # all but that file
    with pytest.raises(InputError, match=r"hf_soups.yaml: the accuracy on report is 0.8275, but soup.json says 0.5"):
        check_card(soup)
    write_card(soup, overwrite=True)
    (entry,) = yaml.safe_load((soup / ".eval_results/hf_soups.yaml").read_text())
    assert entry["value"] == 0.5
    change_json(soup / "soup.json", "scores", "report", "accuracy", to=None)
    write_card(soup, overwrite=True)  # there is no such score any more
    assert not (soup / ".eval_results/hf_soups.yaml").exists()


def test_a_cascades_card_is_its_plan(cascade: Path, images: Made) -> None:
    card = ModelCard(str(card_for(cascade)))
    told = card.data.to_dict()
    assert (told["library_name"], told["pipeline_tag"]) == ("hf_soups", "image-classification")
    assert index(card) == {}  # it was chosen on the only rows
    cells, (first, second, last) = cells_of(card.text), images.members
    assert cells["Members", first, "Leaves at confidence"] == "0.875"
    assert cells["Members", second, "Leaves at confidence"] == "never"
    assert cells["Members", last, "Leaves at confidence"] == "always"
    assert [cells["Members", m, "Share of rows that leave"] for m in images.members] == ["50.0 %", "25.0 %", "25.0 %"]
    assert cells["Members", last, "Cost"] == "1,600,000"
    costs = {row: value for (title, row, _), value in cells.items() if title == "Costs of one row"}
    assert costs == {
        "unit": "MACs per example",
        "hardware": "counted, so the same everywhere",
        "on average": "512.5",
        "of a row that meets every member": "1,600,500",
        "of the most expensive member alone": "1,600,000",
    }
    assert cells["How it was chosen", "chosen on", "Value"] == "320 select rows"
    (row,) = [c for c in cells if c[0] == "Results" and c[2] == "Lower bound"]
    assert cells[row] == "84.4"


def test_measured_costs_stand_with_their_hardware(images: Made, tmp_path: Path) -> None:
    plan = plan_of(images, unit="seconds", hardware="one GPU, batch 8", costs=(0.001, 0.004, 0.0625))
    cells = cells_of(card_for(images.built(plan, tmp_path / "timed")).text)
    assert cells["Costs of one row", "hardware", "Value"] == "one GPU, batch 8"
    assert cells["Costs of one row", "unit", "Value"] == "seconds per example"
    assert cells["Costs of one row", "of a row that meets every member", "Value"] == "0.0675"


def test_a_cascade_of_references_names_its_members_repos_and_what_its_soups_were_mixed_from(cascade: Path) -> None:
    assert "base_model" not in card_for(cascade).data.to_dict()
    change_json(cascade / "config.json", "members", 0, to={"name": "vit", "repo": "org/vit", "revision": COMMIT})
    ingredients = [{"name": n, "coefficient": 0.5, "source": source} for n, source in (("a", "org/a"), ("b", "/b"))]
    record = {"format": "hf_soups.soup.v1", "ingredients": ingredients}
    (cascade / "member_1/soup.json").write_text(json.dumps(record))
    card = card_for(cascade)
    assert card.data.base_model == ["org/vit", "org/a"]
    assert cells_of(card.text)["Members", "vit", "Where"] == f"org/vit@{COMMIT} in float32"


def cited(folder: Path) -> list[str]:
    text = card_for(folder).text
    return [
        n for n in ("2203.05482", "2012.01988", "2005.00570", "2403.19522", "2109.01903", "2212.04089") if n in text
    ]


def test_a_card_cites_what_was_used(soup: Path, cascade: Path) -> None:
    assert cited(soup) == ["2203.05482"]
    for method, paper in (("model-stock", "2403.19522"), ("wise-ft", "2109.01903"), ("task-vectors", "2212.04089")):
        change_json(soup / "soup.json", "method", to=method)
        assert cited(soup) == ["2203.05482", paper]
    assert cited(cascade) == ["2012.01988"]
    (cascade / "member_1/soup.json").write_text(json.dumps({"format": "hf_soups.soup.v1", "ingredients": []}))
    assert cited(cascade) == ["2203.05482", "2012.01988"]


def test_a_card_says_what_made_the_model_and_what_a_cascade_needs(soup: Path, cascade: Path) -> None:
    cells = cells_of(card_for(soup).text)
    for package in ("hf_soups", "torch", "transformers", "safetensors", "numpy"):
        assert cells["Framework versions", package, "Value"] == metadata.version(package)
    assert "Made with hf_soups (`pip install hf_soups`)." in card_for(soup).text
    words = [line for line in card_for(cascade).text.splitlines() if line and not line.startswith(("#", "<!--"))]
    assert words[0] == "It needs the package hf_soups: `pip install hf_soups`, then `import hf_soups`."


def test_texts_get_examples_for_the_hubs_widget(soup: Path, cascade: Path) -> None:
    assert all(example["text"] for example in card_for(soup).data.to_dict()["widget"])
    assert "widget" not in card_for(soup, recipe=glue()).data.to_dict()  # of pairs
    assert "widget" not in card_for(cascade).data.to_dict()


def licensed(folder: Path, licence: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    return str(folder)


def test_a_licence_is_that_of_the_ingredients_where_they_agree(soup: Path, tmp_path: Path) -> None:
    for i in range(2):
        change_json(soup / "soup.json", "ingredients", i, "source", to=licensed(tmp_path / f"i{i}", "mit"))
    assert card_for(soup).data.license == "mit"
    assert card_for(soup, details=CardDetails("apache-2.0")).data.license == "apache-2.0"
    licensed(tmp_path / "i1", "cc-by-4.0")
    card = card_for(soup)
    assert card.data.license is None
    assert "has different licences, of which none can be assumed: m0 (mit), m1 (cc-by-4.0)." in card.text
    for i in range(2):
        (tmp_path / f"i{i}/README.md").write_text("---\nlicense: [unclosed\n---\n")
    assert card_for(soup).data.license is None
    for i in range(2):
        licensed(tmp_path / f"i{i}", "'mit ## Results'")  # no word: it goes into no card
    assert card_for(soup).data.license is None


def test_a_cascades_licence_is_that_of_what_its_members_are_made_of(cascade: Path, tmp_path: Path) -> None:
    for i in range(2):
        ingredient = {"name": "a", "coefficient": 1.0, "source": licensed(tmp_path / f"i{i}", "mit")}
        record = {"format": "hf_soups.soup.v1", "ingredients": [ingredient]}
        (cascade / f"member_{i}/soup.json").write_text(json.dumps(record))
    assert card_for(cascade).data.license == "mit"
    licensed(tmp_path / "i1", "cc-by-4.0")
    card = card_for(cascade)
    assert card.data.license is None
    assert "has different licences, of which none can be assumed: i0 (mit), i1 (cc-by-4.0)." in card.text
    assert str(tmp_path) not in str(card)


def test_without_cards_of_their_own_the_ingredients_have_the_licence_of_their_start(soup: Path, tmp_path: Path) -> None:
    start = licensed(tmp_path / "start", "bsd-3-clause")
    recipe = Recipe.model_validate({"task": {"name": "glue/rte", "path": "nyu-mll/glue"}, "model": start})
    assert card_for(soup, recipe=recipe).data.license == "bsd-3-clause"


def test_what_the_sweep_drew_stands_beside_each_ingredient(soup: Path) -> None:
    sweep = {"runs": 2, "space": {"learning_rate": {"log_uniform": [1e-5, 1e-3]}, "epochs": {"choice": [1, 2]}}}
    task = {"name": "glue/rte", "path": "nyu-mll/glue"}
    recipe = Recipe.model_validate({"task": task, "model": "me/start", "sweep": sweep})
    change_json(soup / "soup.json", "ingredients", 0, "name", to="run_01")
    cells = cells_of(card_for(soup, recipe=recipe).text)
    drawn = make_plan(recipe)[1].train
    assert cells["Ingredients", "run_01", "learning_rate"] == f"{drawn['learning_rate']:.4g}"
    assert cells["Ingredients", "run_01", "epochs"] == f"{drawn['epochs']:.4g}"
    assert cells["Ingredients", "m1", "learning_rate"] == "-"  # no run of this sweep


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("scores", "report", "accuracy"), 0.5, "accuracy on report in the metadata is 0.8275, but soup.json says 0.5"),
        (("scores", "report", "accuracy"), 0.82751, "accuracy on report in the metadata"),  # rounds to the same
        (("scores", "select", "ece"), 0.5, "'ece' of 'select: .*' under 'Results' is 6.2, but soup.json says 50.0"),
        (("ingredients", 0, "coefficient"), 0.5, "'Coefficient' of 'm0' under 'Ingredients' is 0.75, .* says 0.5"),
        (("ingredients", 1, "sha256"), "f" * 64, "'SHA-256 of the weights' of 'm1' under 'Ingredients'"),
        (("select_rows",), 40, "'Value' of 'select rows' under 'How it was chosen' is 400, but soup.json says 40"),
        (("best_single", "score"), 0.5, "best single model on select rows"),
        (("method",), "uniform", "'Value' of 'method'"),
    ],
)
def test_a_card_whose_figures_are_not_the_records_is_found_out(
    soup: Path, keys: tuple[Any, ...], value: Any, named: str
) -> None:
    write_card(soup, recipe=glue())
    check_card(soup)
    change_json(soup / "soup.json", *keys, to=value)
    with pytest.raises(InputError, match=named):
        check_card(soup)
    write_card(soup)  # its own card may be replaced
    check_card(soup)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("score", 0.5, "'accuracy' of 'select: .*' under 'Results' is 90.6, but config.json says 50.0"),
        ("thresholds", [0.5, 2.0], "'Leaves at confidence' of '.*' under 'Members' is 0.875, but config.json says 0.5"),
        ("costs", [100.0, 401.0, 1_600_000.0], "'Cost' of"),
        ("exit_shares", [0.25, 0.5, 0.25], "'Share of rows that leave'"),
        ("average_cost", 1.0, "'Average cost .MACs per example.' of 'select: .*' under 'Results' is 512.5, .* says 1"),
        ("hardware", "a phone", "'Value' of 'hardware'"),
    ],
)
def test_a_cascades_card_is_held_to_its_config(cascade: Path, key: str, value: Any, named: str) -> None:
    write_card(cascade)
    check_card(cascade)
    change_json(cascade / "config.json", "plan", key, to=value)
    with pytest.raises(InputError, match=named):
        check_card(cascade)


def test_a_row_added_to_a_cards_table_is_found_out(soup: Path) -> None:
    path = write_card(soup)
    text = path.read_text()
    path.write_text(text.replace("| m1 | 0.25 |", f"| m9 | 0.1 | - | {'0' * 64} |\n| m1 | 0.25 |"))
    with pytest.raises(InputError, match=r"of 'm9' under 'Ingredients' is 0.1, but soup.json says nothing of it"):
        check_card(soup)


def test_a_card_is_written_into_a_folder(soup: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"card\.md: expected a folder.*`out`; the card is README\.md in it"):
        write_card(soup, out=tmp_path / "card.md")
    assert not (tmp_path / "card.md").exists()
    assert write_card(soup, out=tmp_path / "cards") == tmp_path / "cards" / "README.md"


def test_words_and_sections_added_by_hand_are_left_alone(soup: Path) -> None:
    path = write_card(soup, name="me/soup", recipe=glue())
    text = path.read_text().replace(
        "## Use", "Words.\n\n## Speed\n\n| Machine | Rows |\n|---|---|\n| mine | 9 |\n\n## Use"
    )
    path.write_text(text)
    check_card(soup)
    with pytest.raises(InputError, match="written or changed by hand"):
        write_card(soup)
    assert path.read_text() == text
    write_card(soup, overwrite=True)
    assert "mine" not in path.read_text()


def test_text_above_and_below_the_marks_is_kept_when_the_card_is_written_again(soup: Path) -> None:
    path = write_card(soup)
    above, below = "Read me first.\n\n", "\n## Thanks\n\nTo all.\n"
    path.write_text(path.read_text().replace(BEGIN, above + BEGIN) + below)
    check_card(soup)
    change_json(soup / "soup.json", "select_rows", to=40)
    with pytest.raises(InputError, match="'Value' of 'select rows'"):
        check_card(soup)
    write_card(soup)
    check_card(soup)
    assert above + BEGIN in path.read_text()
    assert path.read_text().endswith(below)
    path.write_text(path.read_text().replace("- greedy\n", "- mine\n"))  # metadata
    with pytest.raises(InputError, match="written or changed by hand"):
        write_card(soup)
    write_card(soup, overwrite=True)
    assert above + BEGIN in path.read_text()
    assert "- mine" not in path.read_text()


def as_by_0_1_0(card: str) -> str:
    """The same card with the one mark that hf_soups 0.1.0 set below it."""
    text = card.replace(f"{BEGIN}\n\n", "").rpartition("\n<!-- made by")[0]
    return f"{text}\n<!-- made by hf_soups {hashlib.sha256(text.encode()).hexdigest()[:16]} -->\n"


def test_a_card_by_0_1_0_is_checked_and_replaced_unless_it_was_changed_by_hand(soup: Path) -> None:
    path = write_card(soup)
    new, old = path.read_text(), as_by_0_1_0(path.read_text())
    path.write_text(old)
    check_card(soup)
    write_card(soup)
    assert path.read_text() == new
    for changed in (old + "\nMine.\n", old.replace("# soup", "# my soup")):
        path.write_text(changed)
        check_card(soup)
        with pytest.raises(InputError, match="written or changed by hand"):
            write_card(soup)
        write_card(soup, overwrite=True)
        assert path.read_text() == new


def test_a_readme_of_somebody_else_is_kept(soup: Path) -> None:
    (soup / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README.md was written or changed by hand.*overwrite"):
        write_card(soup)
    assert (soup / "README.md").read_text() == "mine"
    with pytest.raises(InputError, match="under 'Results' is missing"):
        check_card(soup)


def test_a_card_can_be_written_elsewhere(soup: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in soup.iterdir() if p.is_file()}
    path = write_card(soup, recipe=glue(), out=tmp_path / "new/card")
    assert path == tmp_path / "new/card/README.md"
    assert (path.parent / ".eval_results/hf_soups.yaml").is_file()
    assert {p.name: p.read_bytes() for p in soup.iterdir() if p.is_file()} == before
    path.write_text("mine")
    with pytest.raises(InputError, match="was written or changed by hand"):
        write_card(soup, recipe=glue(), out=path.parent)


def test_nothing_half_written_is_left(soup: Path) -> None:
    before = {p.name for p in soup.iterdir()}
    write_card(soup)
    assert {p.name for p in soup.iterdir()} == before | {"README.md"}


def test_what_is_no_soup_or_cascade_is_refused(pair: list[Checkpoint], soup: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config.json, so it is neither a soup nor a cascade"):
        card_for(tmp_path)
    with pytest.raises(InputError, match=r"holds no soup.json"):
        card_for(pair[0].folder)
    with pytest.raises(InputError, match="'a b' is no id of a Hub repo"):
        card_for(soup, name="a b")
    with pytest.raises(InputError, match="there is no card"):
        check_card(soup)
    change_json(soup / "config.json", "architectures", to=["BertModel"])
    with pytest.raises(InputError, match="the model is BertModel; cards are made for"):
        card_for(soup)
    change_json(soup / "soup.json", "ingredients", to=[{"name": "m0"}])
    with pytest.raises(
        InputError, match=r"soup\.json: not valid as the record of a soup: ingredients\.0\.coefficient: Field req"
    ):
        card_for(soup)
    (soup / "soup.json").write_text("{")
    with pytest.raises(InputError, match="no valid JSON"):
        card_for(soup)


def test_cells_read_back_are_those_written() -> None:
    table = MarkdownTable("T", ("Name", "A", "B"), (("x|y", "1", "a\nb"), ("z", "`2`", "-")))
    text = f"# t\n\n## T\n\n{table.markdown()}\n\n```\n## T\n| z | 9 | 9 |\n```\n"
    assert cells_of(text) == {
        ("T", "x|y", "A"): "1", ("T", "x|y", "B"): "a b", ("T", "z", "A"): "`2`", ("T", "z", "B"): "-",
    }  # fmt: skip


def test_code_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    code = "import os\nassert os.listdir('me/soup') == ['here']\nprint('read')"
    (tmp_path / "here").touch()
    assert run_code(code, tmp_path, "me/soup") == "read\n"
    with pytest.raises(InputError, match=r"the code of its card fails .*ZeroDivisionError"):
        run_code("1 / 0", tmp_path, "soup")
    with pytest.raises(InputError, match=r"not done after 0.2 seconds"):
        run_code("import time; time.sleep(20)", tmp_path, "soup", timeout=0.2)
    with pytest.raises(InputError, match="no name of a model"):
        run_code("", tmp_path, "../soup")


@pytest.mark.slow
def test_the_code_of_a_soups_card_runs(soup: Path, tmp_path: Path) -> None:
    assert run_snippet(soup, name="me/soup").startswith("[{'label': ")
    (soup / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="the code of its card fails"):
        run_snippet(soup)


@pytest.mark.slow
def test_the_code_of_an_image_soups_card_runs(tmp_path: Path) -> None:
    start = tiny_vit(tmp_path / "start")
    pool = tuple(Checkpoint(near(start, tmp_path / f"m{i}", seed=i)) for i in range(2))
    folder = Soup(pool, (0.5, 0.5), method="uniform").save_pretrained(tmp_path / "soup")
    assert "'score':" in run_snippet(folder)


@pytest.mark.slow
def test_the_code_of_a_cascades_card_runs(cascade: Path) -> None:
    assert "'exit': " in run_snippet(cascade, name="me/cascade")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "text-pair"])
def test_the_code_of_a_text_cascades_card_runs(kind: str, tmp_path: Path) -> None:
    pool = make(kind, tmp_path / "models", rows=4)
    assert "'exit': " in run_snippet(pool.built(pool.plan((0.5, 0.5)), tmp_path / "cascade"))


@pytest.mark.parametrize("name", ["nowhere", "out/nowhere"])
def test_a_folder_that_does_not_exist_makes_no_card(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name}: no such folder"):
        write_card(tmp_path / name)
