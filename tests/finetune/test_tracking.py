"""Trackers are told everything, are given up on when they fail, and never hear of one run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.tracking import GeneralTracker

from hf_soups.errors import MissingExtra
from hf_soups.finetune import finetune
from hf_soups.finetune.run_record import read_run
from hf_soups.finetune.tracking import WARNING, configuration
from hf_soups.recipe import Recipe, recipe_from
from hf_soups.sweep import run_sweep
from tests.cli.test_cli import hf_soups
from tests.makers.patience import PATIENCE
from tests.makers.small_task import text_recipe
from tests.makers.tiny import tiny_bert

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    text_recipe(folder, tiny_bert(folder / "bert"))
    return folder


def short(place: Path, tracker: str | None = None, **train: Any) -> Recipe:
    return text_recipe(place, place / "bert", tracker=tracker, train={"max_steps": 40, "keep": "best", **train})


class Notebook(GeneralTracker):
    """A tracker that remembers, until it fails."""

    name, requires_logging_directory = "notebook", False

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.fails = fails
        self.values: list[tuple[int | None, dict[str, Any]]] = []
        self.config: dict[str, Any] = {}
        self.calls: list[str] = []

    @property
    def tracker(self) -> Any:
        return self

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise ConnectionError("no route to the tracker")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._called("start")
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._called("log")
        self.values.append((step, values))

    def finish(self) -> None:
        self._called("finish")


def test_a_tracker_is_told_the_recipe_the_losses_and_the_scores(place: Path, tmp_path: Path) -> None:
    notebook, recipe = Notebook(), short(place)
    finetune(recipe, tmp_path / "run", progress=False, tracker=notebook)
    assert notebook.config == configuration(recipe)
    record = read_run(tmp_path / "run")
    during = [(s, v) for s, v in notebook.values if "loss" in v]
    assert during == [(p["step"], {k: p[k] for k in ("epoch", "loss", "learning_rate")}) for p in record.history]
    selected = [(s, v["select"]) for s, v in notebook.values if "select" in v]
    assert selected == [(p["step"], p["select"]) for p in record.history if "select" in p]
    assert len(selected) == 4
    final = {f"{role}/{m}": value for role, scores in record.scores.items() for m, value in scores.items()}
    assert notebook.values[-1] == (40, final)
    assert {"select/accuracy", "report/accuracy", "report/nll", "report/ece"} <= set(final)
    assert notebook.calls[-1] == "finish"


def test_every_value_of_the_recipe_is_told_by_its_name_on_the_command_line(place: Path) -> None:
    told = configuration(short(place, learning_rate=1e-5))
    assert (told["learning_rate"], told["data.select_minimum"], told["task.kind"]) == (1e-5, 40, "text")
    assert told["task.text"] == "text"
    assert {type(value) for value in told.values()} <= {str, int, float, bool}


@pytest.mark.parametrize("when", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_said_and_does_not_end_the_run(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], when: str
) -> None:
    notebook = Notebook(fails=when)
    finetune(short(place), tmp_path / "run", progress=False, tracker=notebook)
    assert (tmp_path / "run" / "model.safetensors").exists()
    expected = "warning: the tracker of your own failed (no route to the tracker); this run goes on without it."
    told = capfd.readouterr().err.splitlines()
    assert expected in told
    assert notebook.calls.count("log") == {"start": 0, "log": 1, "finish": 45}[when]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_with_its_extra_before_anything_is_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    recipe = short(place, name)
    with pytest.raises(MissingExtra, match=rf'pip install "hf_soups\[{name}\]"'):
        finetune(recipe, tmp_path / "run", progress=False)
    with pytest.raises(MissingExtra, match=rf'pip install "hf_soups\[{name}\]"'):
        run_sweep(recipe, tmp_path / "runs", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_called_wandb_is_not_taken_for_the_package(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wandb itself leaves such folders; Python calls any folder a package."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(MissingExtra):
        run_sweep(short(place, "wandb"), tmp_path / "runs", progress=False)


# The real ones, offline


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TRACKIO_DIR": str(folder / "trackio"), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


TRACKED = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
logs = lambda run: SQLiteStorage.get_logs("small", run.name, run_id=run.id)
print(json.dumps([[run.name, run.config, logs(run)] for run in trackio.Api().runs("small")]))
"""


def read_trackio(folder: Path) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Name, configuration and logs of each run, as another process finds them."""
    done = subprocess.run(
        [sys.executable, "-c", TRACKED], env=environment(folder), capture_output=True, text=True, check=True
    )
    return [tuple(run) for run in json.loads(done.stdout)]


def read_wandb(folder: Path) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """The same of what `wandb sync` would send."""
    from wandb.proto import wandb_internal_pb2 as pb

    found = []
    for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        name, config, logs = "", {}, []
        for raw in records(file.read_bytes()):
            record = pb.Record.FromString(raw)
            if record.WhichOneof("record_type") == "run":
                name = f"{record.run.project}/{record.run.run_group}/{record.run.display_name}"
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif record.WhichOneof("record_type") == "history":
                told = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                logs.append({**told, "step": told["_step"]})
        found.append((name, config, logs))
    return found


def records(data: bytes) -> Iterator[bytes]:
    """Wandb's file is a log as LevelDB writes it: blocks of 32 KiB, parts with a header of 7 bytes."""
    at, whole = 7, b""  # after the file's own header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the only part, or the last
            yield whole
            whole = b""


def check(logs: list[dict[str, Any]], run: Path) -> None:
    """What was told is what run.json says, once."""
    record = read_run(run)
    losses = {log["step"]: log["loss"] for log in logs if "loss" in log}
    assert losses == {p["step"]: pytest.approx(p["loss"]) for p in record.history}
    assert sum("loss" in log for log in logs) == len(record.history)
    assert [log["select"] for log in logs if "select" in log] == [p["select"] for p in record.history if "select" in p]
    final = [log["report/accuracy"] for log in logs if "report/accuracy" in log]
    assert final == [record.scores["report"]["accuracy"]]


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_a_killed_run_that_is_repeated_stands_in_the_tracker_once(place: Path, tmp_path: Path, tracker: str) -> None:
    recipe, out, marker = tmp_path / "small.yaml", tmp_path / "pile" / "run_00", tmp_path / "pile/.run_00.tracker"
    recipe.write_text(yaml.safe_dump(short(place, tracker).model_dump(mode="json", exclude={"sweep"})))
    command = [sys.executable, "-m", "hf_soups.finetune", str(recipe), "--out", str(out)]
    long = [*command, "--max_steps", "100000"]
    with subprocess.Popen(long, env=environment(tmp_path), start_new_session=True, cwd=tmp_path) as killed:
        deadline = time.monotonic() + PATIENCE
        while not marker.exists():
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1.5)  # trackio writes every half second
        os.killpg(killed.pid, signal.SIGKILL)
    first = read_trackio(tmp_path) if tracker == "trackio" else read_wandb(tmp_path / "pile")
    assert len(first) == 1
    subprocess.run(command, env=environment(tmp_path), check=True, cwd=tmp_path, capture_output=True)
    assert not marker.exists()
    ((name, config, logs),) = read_trackio(tmp_path) if tracker == "trackio" else read_wandb(tmp_path / "pile")
    assert name == {"trackio": "run_00", "wandb": "small/pile/run_00"}[tracker]
    assert config.get("_Group", "pile") == "pile"
    assert (config["learning_rate"], config["max_steps"], config["data.select_minimum"]) == (3e-3, 40, 40)
    check(logs, out)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "trackio") == [
        "pile",
        "small.yaml",
    ]  # none in the cwd


@pytest.mark.slow
def test_a_sweep_is_one_project_and_one_group(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = short(place, "trackio").model_dump(mode="json")
    space = {"learning_rate": {"choice": [2e-3, 3e-3]}}
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump({**values, "sweep": {"method": "grid", "space": space}}))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    done = hf_soups("sweep", str(recipe), "--out", str(tmp_path / "pile"), "--slots", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'tracked by trackio: trackio show --project "small"' in done.stdout
    found = sorted(read_trackio(tmp_path), key=lambda run: run[0])
    assert [(name, config["_Group"], config["learning_rate"]) for name, config, _ in found] == [
        ("run_00", "pile", 2e-3), ("run_01", "pile", 3e-3),
    ]  # fmt: skip
    for name, _, logs in found:
        check(logs, tmp_path / "pile" / name)


def test_a_tracker_that_failed_is_told_by_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_from({"task": "glue/rte", "model": "m", "sweep": {"runs": 1}})
    out = tmp_path / "sweep"
    warning = f"{WARNING} wandb failed (no login); this run goes on without it."
    fake = f"{sys.executable} {ROOT}/tests/makers/fake_run.py run_00 {out}/run_00 {tmp_path}/log 0 finished"
    done = run_sweep(recipe, out, command=lambda _: ["sh", "-c", f"{fake}; echo '{warning}' >&2"])
    assert done.exit_status == 0
    assert f"run_00  {warning}" in capsys.readouterr().out.splitlines()


def test_a_recipe_without_a_name_has_a_project() -> None:
    from hf_soups.finetune.tracking import project_of, where_to_look

    recipe = recipe_from({"task": "glue/rte", "model": "m"})
    assert project_of(recipe) == "hf_soups"
    assert where_to_look(recipe) == ""
