"""Every method on the menu, from one call to folders: what each writes, what it needs, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification

from hf_soups.cooking import CookResult, Options, cook, methods, soup_method
from hf_soups.errors import CheckpointError, InputError, OutOfMemory
from hf_soups.leaderboard import build_leaderboard
from hf_soups.soups import registry, uniform
from hf_soups.soups.methods import learned as learned_package
from tests.documents.pages import DOCS, blocks
from tests.makers.pile import make_pile, make_sweep, near

METHODS = tuple(methods())


def quietly(*arguments, **options) -> CookResult:
    return cook(*arguments, tell=None, **options)


def record(folder: Path) -> dict:
    return json.loads((folder / "soup.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_sweep(folder, models=3)
    shutil.copytree(folder / "pile/start", folder / "sweep/start")
    return folder


@pytest.fixture(scope="module")
def soups(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep and the folder of all soups cooked from it."""
    folder = tmp_path_factory.mktemp("all")
    sweep = shutil.copytree(made / "sweep", folder / "sweep")
    quietly([sweep], METHODS, folder / "soups", options=Options(epochs=2))
    return sweep, folder / "soups"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_a_checkpoint_that_is_what_its_record_says(
    soups: tuple[Path, Path], method: str, tmp_path: Path
) -> None:
    sweep, folder = soups[0], soups[1] / method
    told = record(folder)
    assert told["method"] == method
    rows = told.get("coefficients_by_tensor")
    sources = [load_file(Path(i["source"]) / "model.safetensors") for i in told["ingredients"]]
    stored = load_file(folder / "model.safetensors")
    for name, values in stored.items():
        row = rows[name] if rows else [i["coefficient"] for i in told["ingredients"]]
        exact = sum(c * s[name].astype(np.float64) for c, s in zip(row, sources, strict=True))
        np.testing.assert_allclose(values, exact, rtol=1e-6, atol=1e-7)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.isfinite(model(input_ids=torch.tensor([[1, 2, 3]])).logits).all()
    assert (sweep / "soups" / f"{method}.json").is_file()


def test_the_leaderboard_has_every_soup(soups: tuple[Path, Path]) -> None:
    rows = [row.name for row in build_leaderboard(soups[0], resamples=20).rows if row.kind == "soup"]
    assert sorted(rows) == sorted(f"{method} soup" for method in METHODS)


def test_the_start_is_not_counted_as_an_ingredient(soups: tuple[Path, Path]) -> None:
    rows = {row.name: row for row in build_leaderboard(soups[0], resamples=20).rows}
    assert [i["name"] for i in record(soups[1] / "model-stock")["ingredients"]][-1] == "start"
    assert (rows["model-stock soup"].ingredients, rows["model-stock soup"].pool) == (3, 3)
    assert rows["model-stock soup"].train_seconds == rows["uniform soup"].train_seconds
    again = quietly([soups[0]], ("model-stock",), soups[1]).soups[0]
    assert again.words()[0].startswith("model-stock soup of 3 of 3:")


@pytest.mark.parametrize("method", ["learned", "learned-by-tensor", "learned-free"])
def test_a_learned_soup_is_never_below_the_uniform_one_on_select(soups: tuple[Path, Path], method: str) -> None:
    scores = {m: record(soups[1] / m)["scores"]["select"]["accuracy"] for m in (method, "uniform")}
    assert scores[method] >= scores["uniform"]
    assert "uniform" in record(soups[1] / method)["learned"]["why"]


@pytest.mark.parametrize("method", ["greedy", "wise-ft"])
def test_a_method_that_has_the_best_single_among_its_choices_is_not_below_it(
    soups: tuple[Path, Path], method: str
) -> None:
    told = record(soups[1] / method)
    assert told["scores"]["select"]["accuracy"] >= told["best_single"]["score"]


def test_a_line_keeps_its_points(soups: tuple[Path, Path]) -> None:
    rows = list(csv.DictReader((soups[1] / "wise-ft/steps.csv").open()))
    assert [row["candidate"] for row in rows] == [f"alpha {i / 10:.2f}" for i in range(11)]
    best = max(float(row["score"]) for row in rows)
    assert record(soups[1] / "wise-ft")["scores"]["select"]["accuracy"] == pytest.approx(best)


def test_the_same_call_again_makes_nothing(soups: tuple[Path, Path]) -> None:
    again = quietly([soups[0]], METHODS, soups[1], options=Options(epochs=2))
    assert all(soup.already for soup in again.soups)


def test_an_option_counts_only_for_the_methods_that_listen_to_it(soups: tuple[Path, Path]) -> None:
    changed = Options(epochs=2, tie=">")
    assert quietly([soups[0]], ("learned", "uniform"), soups[1], options=changed).soups[0].already
    with pytest.raises(InputError, match="exists already"):
        quietly([soups[0]], ("greedy",), soups[1], options=changed)


def test_methods_without_a_score_need_no_data(made: Path, tmp_path: Path) -> None:
    pile = make_pile(tmp_path / "pile", models=2)
    sources = [pile / "m0", pile / "m1"]
    options = Options(start=str(pile / "start"), scale=0.5)
    for method in ("model-stock", "task-vectors", "run-ema"):
        soup = quietly(sources, (method,), tmp_path / method, options=options).soups[0]
        assert soup.score is None
    with pytest.raises(InputError, match="needs a scale"):
        quietly(sources, ("task-vectors",), tmp_path / "x", options=Options(start=str(pile / "start")))
    assert not (tmp_path / "x").exists()


def test_weights_may_be_cut_into_shards(soups: tuple[Path, Path], tmp_path: Path) -> None:
    quietly([soups[0]], ("uniform",), tmp_path / "cut", max_shard_size="20KB")
    cut, whole = tmp_path / "cut/uniform", soups[1] / "uniform"
    shards = sorted(cut.glob("model-*.safetensors"))
    assert len(shards) > 1
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    joined = {name: values for shard in shards for name, values in load_file(shard).items()}
    expected = load_file(whole / "model.safetensors")
    assert joined.keys() == expected.keys()
    assert all(np.array_equal(joined[name], values) for name, values in expected.items())
    assert record(cut)["scores"] == record(whole)["scores"]


@pytest.mark.parametrize("size", ["5 apples", "0", "-1GB", ""])
def test_a_size_that_is_none_is_refused(made: Path, tmp_path: Path, size: str) -> None:
    with pytest.raises(InputError, match="is not understood"):
        quietly([made / "sweep"], ("uniform",), tmp_path / "soups", max_shard_size=size)


def test_one_fine_tune_is_enough_for_the_line_to_its_start(made: Path, tmp_path: Path) -> None:
    pile = make_pile(tmp_path / "pile", models=1)
    options = Options(start=str(pile / "start"))
    soup = quietly([pile / "m0"], ("wise-ft",), tmp_path / "w", recipe=pile / "recipe.yaml", options=options).soups[0]
    assert record(soup.folder)["alpha"] in [i / 10 for i in range(11)]
    with pytest.raises(InputError, match="at least two finished checkpoints"):
        quietly([pile / "m0"], ("greedy",), tmp_path / "g", recipe=pile / "recipe.yaml", options=options)


def test_the_folder_of_a_trainer_stands_for_its_checkpoints(made: Path, tmp_path: Path) -> None:
    start = made / "pile/start"
    for step, seed in ((200, 1), (1000, 2), (50, 3)):
        near(start, tmp_path / "run" / f"checkpoint-{step}", seed)
    (tmp_path / "run/checkpoint-1200").mkdir()
    result = quietly([tmp_path / "run"], ("run-ema",), tmp_path / "soup", options=Options(decay=0.5))
    assert result.soups[0].ingredients == ("checkpoint-50", "checkpoint-200", "checkpoint-1000")
    assert [i.coefficient for i in result.soups[0].record.ingredients] == [0.25, 0.25, 0.5]
    assert "checkpoint-1200" in next(iter(result.left_out))


def test_a_killed_learned_soup_goes_on_where_it_was(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = shutil.copytree(made / "sweep", tmp_path / "sweep")
    straight = quietly([sweep], ("learned",), tmp_path / "straight", options=Options(epochs=4)).soups[0]
    real, steps = learned_package.learned, []

    def counting(*arguments, on_step, **options):
        def counted(step) -> None:
            steps.append(step.step)
            on_step(step)
            if len(steps) == 2:
                raise KeyboardInterrupt

        return real(*arguments, on_step=counted, **options)

    monkeypatch.setattr(learned_package, "learned", counting)
    with pytest.raises(KeyboardInterrupt):
        quietly([sweep], ("learned",), tmp_path / "soups", options=Options(epochs=4))
    resumed = quietly([sweep], ("learned",), tmp_path / "soups", options=Options(epochs=4)).soups[0]
    assert steps == list(range(1, len(steps) + 1))
    assert resumed.record.ingredients == straight.record.ingredients
    assert [p.name for p in (tmp_path / "soups").iterdir()] == ["learned"]


def test_an_ingredient_that_changes_while_a_soup_is_chosen_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = shutil.copytree(made / "sweep", tmp_path / "sweep")
    for cached in sweep.glob("run_*/predictions/*"):
        cached.unlink()
    said = []

    def tell(line: str) -> None:
        said.append(line)
        if "run_00 alone" in line:
            path = sweep / "run_02/model.safetensors"
            path.write_bytes(path.read_bytes())

    with pytest.raises(CheckpointError, match=r"run_02.*changed while it was in use"):
        cook([sweep], ("greedy",), tmp_path / "soups", tell=tell)
    assert not (tmp_path / "soups/greedy").exists()


def test_scores_of_ingredients_that_changed_between_two_calls_are_not_taken_over(made: Path, tmp_path: Path) -> None:
    sweep = shutil.copytree(made / "sweep", tmp_path / "sweep")
    first = quietly([sweep], ("uniform",), tmp_path / "soups").soups[0]
    shutil.rmtree(sweep / "run_01")
    shutil.copytree(sweep / "run_00", sweep / "run_01")
    with pytest.raises(InputError, match="exists already"):
        quietly([sweep], ("uniform",), tmp_path / "soups")
    again = quietly([sweep], ("uniform",), tmp_path / "soups", overwrite=True).soups[0]
    assert again.record.ingredients[1].digest != first.record.ingredients[1].digest


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: no room")])
def test_too_little_memory_is_told_and_leaves_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def greedy_fails(*arguments, **options) -> None:
        raise error

    sweep = shutil.copytree(made / "sweep", tmp_path / "sweep")
    monkeypatch.setattr("hf_soups.soups.scoring.predict_split", greedy_fails)
    with pytest.raises(OutOfMemory, match=r"out of memory .*eval_batch_size"):
        quietly([sweep], ("uniform",), tmp_path / "soups")
    assert not list((tmp_path / "soups").glob("*"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tie": "<"}, "tie is '<'"),
        ({"restarts": -1}, "restarts is -1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"decay": 1.0}, "decay is 1.0"),
    ],
)
def test_wrong_options_are_refused(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Options(**options)


# --- a method of the user's own


@pytest.fixture
def sweep_of_the_page(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the sweep that the page on adding a method names; what is added is forgotten."""
    monkeypatch.setattr(registry, "_METHODS", dict(methods()))
    shutil.copytree(made / "sweep", tmp_path / "runs/mrpc")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_on_adding_a_method_adds_one_and_cooks_with_it(sweep_of_the_page: Path) -> None:
    added, cooked = (block.text for block in blocks(DOCS / "adding-a-method.md") if block.language == "python")
    exec(compile(added, "page", "exec"), {"__name__": "page"})
    exec(compile(cooked, "page", "exec"), {"__name__": "page"})
    told = record(sweep_of_the_page / "soups/mrpc/best-share")
    assert (told["method"], told["selected_on"]) == ("best-share", "select")
    assert [i["coefficient"] for i in told["ingredients"]] == [0.5, 0.5]
    rows = [row.name for row in build_leaderboard(Path("runs/mrpc"), resamples=20).rows if row.kind == "soup"]
    assert sorted(rows) == ["best-share soup", "uniform soup"]


def test_a_method_in_a_file_of_ones_own_is_cooked_by_the_command(sweep_of_the_page: Path) -> None:
    from typer.testing import CliRunner

    from hf_soups.cli import app

    Path("best_share.py").write_text(blocks(DOCS / "adding-a-method.md")[0].text)
    words = ["--import", "best_share.py", "cook", "runs/mrpc", "--method", "best-share", "--out", "soups"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert record(Path("soups/best-share"))["method"] == "best-share"


def test_an_option_with_its_own_default_counts_as_part_of_the_recipe_of_a_soup(sweep_of_the_page: Path) -> None:
    @soup_method("some")
    def some(inputs, *, share: float = 0.5, seed: int):
        assert (share, seed) == (0.5, 3)
        return uniform(inputs.pool)

    assert methods()["some"].key(Options(seed=3), None) == ["some", {"share": 0.5, "seed": 3}, None]
    assert quietly(["runs/mrpc"], ["some"], "soups", options=Options(seed=3)).soups[0].ingredients == tuple(
        f"run_{i:02d}" for i in range(3)
    )


def test_a_name_that_is_taken_and_an_option_that_nobody_can_set_are_refused() -> None:
    with pytest.raises(ValueError, match="there is a soup method 'greedy' already"):
        soup_method("greedy")(lambda inputs: uniform(inputs.pool))
    with pytest.raises(ValueError, match=r"new: sharpness is none of .* and has no default"):

        @soup_method("new")
        def new(inputs, *, sharpness):
            return uniform(inputs.pool)


def test_the_command_and_the_function_have_the_same_defaults() -> None:
    import inspect

    from hf_soups.cli.soups import cook as command

    of_command, of_function = (inspect.signature(f).parameters for f in (command, cook))
    both = set(of_command) & set(of_function) - {"sources"}
    assert {"out", "recipe", "dtype", "max_shard_size", "align_labels", "overwrite"} <= both
    assert {name: str(of_command[name].default) for name in both} == {
        name: str(of_function[name].default) for name in both
    }
    options = {name: getattr(Options(), name) for name in Options.__slots__}
    assert {name: of_command[name].default for name in options} == options
    assert of_command["method"].default is None  # typer lists; the command then takes the function's own default
