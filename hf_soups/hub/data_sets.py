"""A leaderboard or a pool of predictions as a data set of the Hub, without any weights.

The tables are parquet, so that `load_dataset` and the Hub's viewer show them: a row for each row of the data with the
label, the answer and the log-probabilities. Equal predictions give equal bytes (with one version of pyarrow), so that
a second push makes no commit.
"""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.cascades.frontier import Frontier
from hf_soups.costs import UNITS
from hf_soups.errors import InputError
from hf_soups.files.problem_types import CLASSIFICATION, REGRESSION
from hf_soups.files.writing import writable
from hf_soups.hub.contents import (
    BOARD,
    CARD,
    Contents,
    LocalFile,
    Stage,
    files_to_send,
    inside_file,
    pictures_of,
    replaced,
)
from hf_soups.hub.local_paths import cleaned, note_of, without_local_paths
from hf_soups.pool.store import POOL_FILE, Pool, read_pool
from hf_soups.pool_jobs.plans import check_frontier
from hf_soups.pool_jobs.search import FRONTIER_FILE
from hf_soups.predictions.topk import TopKPredictions
from hf_soups.recipe.origin import RECIPE_FILE
from hf_soups.reporting.cards.card import README
from hf_soups.reporting.cards.markdown import MarkdownTable, without_html
from hf_soups.wording import amount, score_in_words

if TYPE_CHECKING:
    import pyarrow

    from hf_soups.predictions import Predictions
    from hf_soups.recipe import Recipe


COSTS = "score_vs_cost.png"
SHOWN = 30  # rows of a leaderboard in its README
TASKS = {"image": "image-classification", "text": "text-classification", "text-pair": "text-classification"}
BOARD_COLUMNS = (
    ("kind, name", "what it is; of a soup, `ingredients` of the sweep's `pool` of runs are in it"),
    ("status", "finished, or why there are no scores; optimistic: it was chosen on the test rows"),
    (
        "select, report",
        "scores on validation and test rows, as fractions; `_low` and `_high` are the ends of 95% intervals",
    ),
    ("report_gain", "report score minus that of the run that was best on select"),
    ("report_nll, report_ece", "negative log-likelihood (natural log) and expected calibration error on report"),
    ("parameters, macs", "of the model; multiply-adds for one example (for a cascade, the mean over the test rows)"),
    ("train_seconds, device", "sum over all runs in it, and the hardware that they ran on"),
)
TABLE = "leaderboard.parquet"
BOARD_FILES = (BOARD, TABLE, "leaderboard.png", COSTS, RECIPE_FILE, *CARD)
POOL_FILES = (POOL_FILE, FRONTIER_FILE, RECIPE_FILE, *CARD)
ROWS_AT_ONCE = 4096
NEEDED = ("kind", "name", "status", "select", "report")
MAKE_IT = "Make it again: hf-soups leaderboard {folder}"


def board_contents(folder: Path, repo_id: str, stage: Stage, include: Sequence[str] = ()) -> Contents:
    """A leaderboard as it would be pushed: CSV for people, parquet for `load_dataset`, pictures and the recipe.

    A README.md of the folder is pushed as it is; else one is made.

    Raises:
        InputError: if the files cannot be read, or the two tables differ.
    """
    rows = _rows(folder)
    shifts = [glob.escape(f"leaderboard_{name}.png") for name in _shifts(rows)]
    files, left_out = files_to_send(folder, [*BOARD_FILES, *shifts, *pictures_of(folder)], include)
    taken = [file.path for file in files]
    notes = ["run folders, soups and caches stay here: a leaderboard is pushed without weights."]
    table = TABLE if TABLE in taken else BOARD
    if table == TABLE:
        _check_same(folder, rows)
    made = [*cleaned(files, stage), *_clean_table(folder, taken, stage)]
    notes += note_of(made)
    pictures = [path for path in taken if path.endswith(".png")]
    if README in taken:
        notes.append("README.md of the folder is pushed as it is: load_dataset reads what its `configs:` name.")
    else:
        made.append(stage.text(README, board_card(repo_id, rows, table, _recipe(folder), pictures)))
    usage = f'datasets.load_dataset("{repo_id}"{{revision}}, split="train")'
    return Contents("leaderboard", replaced(tuple(files), made), tuple(left_out), tuple(notes), usage)


def _shifts(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of the shifts that have columns of their own."""
    ends = [name for name in rows[0] if name.startswith("shift_") and name.endswith("_low")]
    return [name.removeprefix("shift_").removesuffix("_low") for name in ends]


def _rows(folder: Path) -> list[dict[str, str]]:
    path = folder / BOARD
    again = MAKE_IT.format(folder=folder)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}). {again}") from error
    missing = [name for name in NEEDED if not rows or name not in rows[0]]
    if missing:
        raise InputError(
            f"{path}: no leaderboard: it has no {'rows' if not rows else f'column {missing[0]!r}'}. {again}"
        )
    return rows


def _check_same(folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """The two tables must say the same: one of them may be left from before."""
    import pyarrow
    import pyarrow.parquet

    path, columns = folder / TABLE, ["kind", "name", "select", "report"]
    try:
        table: list[dict[str, Any]] = pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    except (OSError, pyarrow.ArrowException, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}). {MAKE_IT.format(folder=folder)}") from error
    texts = [tuple("" if row[name] is None else str(row[name]) for name in columns) for row in table]
    if texts != [tuple(row[name] for name in columns) for row in rows]:
        raise InputError(f"{path}: says other things than {BOARD} beside it. {MAKE_IT.format(folder=folder)}")


def _clean_table(folder: Path, taken: Sequence[str], stage: Stage) -> list[LocalFile]:
    """The table without places of this machine, which reasons of failed runs may name, as in the CSV."""
    import pyarrow
    import pyarrow.parquet

    if TABLE not in taken:
        return []
    table = pyarrow.parquet.read_table(folder / TABLE)
    texts = [name for name in table.column_names if pyarrow.types.is_string(table.schema.field(name).type)]
    values = {name: table[name].to_pylist() for name in texts}
    clean = without_local_paths(values)
    if clean == values:
        return []
    for name in texts:
        table = table.set_column(table.column_names.index(name), table.schema.field(name), [clean[name]])
    at = stage.place(TABLE)
    pyarrow.parquet.write_table(table, at)
    return [LocalFile.at(TABLE, at)]


def _recipe(folder: Path) -> Recipe | None:
    """The recipe of the sweep, which names task and metric; None where the folder has none."""
    from hf_soups.recipe import load_recipe

    path = folder / RECIPE_FILE
    return load_recipe(path) if path.is_file() else None


def board_card(
    repo_id: str, rows: Sequence[Mapping[str, str]], table: str, recipe: Recipe | None, pictures: Sequence[str]
) -> str:
    """README.md of a leaderboard.

    Args:
        repo_id: of the data set.
        rows: of leaderboard.csv, the best first.
        table: the file that `load_dataset` reads.
        recipe: of the sweep.
        pictures: files to show.
    """
    metric = "" if recipe is None else _metric(recipe)
    about: dict[str, Any] = {
        # the best on select is in the table twice: it is a run as well
        "pretty_name": f"Leaderboard of {sum(row['kind'] != 'best on select' for row in rows)} models, soups "
        "and ensembles",
        **({} if recipe is None else {"task_categories": [TASKS[recipe.task.kind]]}),
        "tags": ["hf_soups", "model-soups", "leaderboard"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": table}]}],
    }
    task = "" if recipe is None else f" Task: {without_html(recipe.task.name or recipe.name)}, metric: {metric}."
    shown = rows[:SHOWN]
    more = f"\n\nThe first {SHOWN} of {len(rows)} rows." if len(rows) > SHOWN else ""
    text = (
        f"Fine-tuned models, and the soups, ensembles and cascades made of them, with their scores.{task} Choices were "
        "made on the validation rows (`select`); the test rows (`report`) were used once, for these scores."
        f"\n\n{_board_table(shown, metric).markdown()}{more}\n\n"
        + "".join(f"![{_shown_by(name)}]({name})\n\n" for name in pictures)
        + _code(f'load_dataset("{repo_id}", split="train")')
        + "\n## Columns\n\n"
        + MarkdownTable("Columns", ("Column", "Meaning"), BOARD_COLUMNS).markdown()
    )
    return _card(about, repo_id, text)


def _metric(recipe: Recipe) -> str:
    metric = recipe.task.metric
    return metric if isinstance(metric, str) else PurePath(metric.load).stem


def _board_table(rows: Sequence[Mapping[str, str]], metric: str) -> MarkdownTable:
    columns = ("Model", "Kind", "Select", "Report", "Interval (95%)", "Gain on best", "MACs")
    return MarkdownTable("Leaderboard", columns, tuple(_board_row(row, metric) for row in rows))


def _board_row(row: Mapping[str, str], metric: str) -> tuple[str, ...]:
    def score(name: str) -> str:
        return score_in_words(float(row[name]), metric) if row.get(name) else "-"

    ends = f"{score('report_low')} to {score('report_high')}" if row.get("report_low") else "-"
    macs = amount(float(row["macs"])) if row.get("macs") else "-"
    count = f" {row['ingredients']}/{row.get('pool') or row['ingredients']}" if row.get("ingredients") else ""
    status = "" if row["status"] == "finished" else f" ({row['status']})"
    return (
        f"{row['name']}{count}{status}", row["kind"], score("select"), score("report"), ends, row.get("gain") or "-",
        macs,
    )  # fmt: skip


def _shown_by(picture: str) -> str:
    """What a picture shows, by its name.

    >>> _shown_by("leaderboard.png"), _shown_by("leaderboard_books.png")
    ('Report score against select score', 'Score on the shift books against report score')
    """
    if picture == COSTS:
        return "Report score against multiply-adds of an example"
    shift = picture.removesuffix(".png").removeprefix("leaderboard").lstrip("_")
    return f"Score on the shift {shift} against report score" if shift else "Report score against select score"


@dataclass(frozen=True, slots=True)
class TableOf:
    """The table of one member's predictions."""

    member: str
    config: str  # its name in `load_dataset`
    split: str
    path: str


def pool_contents(folder: Path, repo_id: str, stage: Stage, include: Sequence[str] = ()) -> Contents:
    """A pool as it would be pushed; the members' predictions are read, so that no torn file is.

    Raises:
        InputError: if it has no members or cannot be read, or its frontier was searched on other answers.
        PredictionsError: if a member's predictions are missing, damaged or of other rows.
    """
    pool = read_pool(folder)
    if not pool.members:
        raise InputError(f"{folder}: a pool without members. Add some with hf-soups predict.")
    if (folder / FRONTIER_FILE).exists():
        check_frontier(folder / FRONTIER_FILE, Frontier.load(folder / FRONTIER_FILE), folder)
    answers = [inside_file(folder, member.file).path for member in pool.members.values()]
    files, left_out = files_to_send(folder, [*POOL_FILES, *answers, *pictures_of(folder)], include)
    tables = tables_of(pool)
    made = cleaned(files, stage)
    notes = (*_notes(pool), *note_of(made))
    for table in tables:
        write_table(pool.predictions[table.member], stage.place(table.path))
        made.append(inside_file(stage.folder, table.path))
    if all(file.path != README for file in files):
        made.append(stage.text(README, pool_card(repo_id, pool, tables)))
    usage = f'datasets.load_dataset("{repo_id}", "{tables[0].config}"{{revision}}, split="{tables[0].split}")'
    return Contents("pool", replaced(tuple(files), made), tuple(left_out), notes, usage)


def tables_of(pool: Pool) -> list[TableOf]:
    """A table for each member: its config, split and place, with none of the characters that these cannot have.

    "@" would be taken for a revision in the paths that `load_dataset` makes.
    """
    split = re.sub(r"\W+", "_", pool.data.split).strip("_") or "rows"
    tables: list[TableOf] = []
    for name in pool.members:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "member"
        config = stem if all(stem != t.config for t in tables) else f"{stem}-{len(tables)}"
        tables.append(TableOf(name, config, split, f"tables/{config}.parquet"))
    return tables


def write_table(answers: Predictions, path: Path) -> None:
    """Write predictions as parquet, some thousand rows at a time.

    Raises:
        HfSoupsError: if the place cannot be written.
    """
    import pyarrow.parquet

    schema = _schema(answers)
    # log-probabilities hardly repeat: with a dictionary the files were a sixth larger
    with writable(path), pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for columns in _blocks(answers):
            writer.write_table(pyarrow.table(columns, schema=schema))


def _blocks(answers: Predictions) -> Iterator[dict[str, Any]]:
    for start in range(0, len(answers), ROWS_AT_ONCE):
        part = answers.take(np.arange(start, min(start + ROWS_AT_ONCE, len(answers))))
        labels = None if part.labels is None else part.labels.tolist()
        columns = {
            "row_id": part.row_ids.tolist(),
            "label": [None] * len(part) if labels is None else labels,
            "answer": part.answers.tolist(),
        }
        if isinstance(part, TopKPredictions):
            yield {**columns, "classes": list(part.indices), "log_probs": list(part.top), "left": part.left}
        else:
            yield {**columns, "log_probs": list(part.block(0, len(part)))}


def _schema(answers: Predictions) -> pyarrow.Schema:
    """The columns' types; in its metadata `load_dataset` finds the names of the classes."""
    from datasets import ClassLabel, Features, List, Value

    names = answers.label_names
    classes: Any = Value("int64") if names is None else ClassLabel(names=list(names))
    if answers.problem_type != CLASSIFICATION:
        classes = Value("float64") if answers.problem_type == REGRESSION else List(Value("int64"))
    ids = Value("int64" if answers.row_ids.dtype.kind == "i" else "string")
    top = isinstance(answers, TopKPredictions)
    return Features({
        "row_id": ids, "label": classes, "answer": classes,
        **({"classes": List(Value("int64"))} if top else {}),
        "log_probs": List(Value("float32")),
        **({"left": Value("float32")} if top else {}),
    }).arrow_schema  # fmt: skip


def _notes(pool: Pool) -> list[str]:
    sent = "the rows' ids" if pool.data.label is None else "the rows' ids and labels"
    return [f"{sent} are pushed with the predictions; the rows themselves and the members' weights stay here."]


def pool_card(repo_id: str, pool: Pool, tables: Sequence[TableOf]) -> str:
    """README.md of a pool of predictions; the first member is what `load_dataset` reads without a name."""
    configs = [
        {
            "config_name": t.config,
            "data_files": [{"split": t.split, "path": t.path}],
            **({} if i else {"default": True}),
        }
        for i, t in enumerate(tables)
    ]
    about = {
        "pretty_name": f"Predictions of {len(pool)} models",
        **({"task_categories": [TASKS[pool.kind]]} if pool.kind in TASKS else {}),
        "tags": ["hf_soups", "predictions"],
        "configs": configs,
    }
    kept = "all classes" if pool.top_k is None else f"the {pool.top_k} most probable classes"
    text = (
        f"Predictions of {len(pool)} models on {pool.data.rows} rows: the log-probabilities (natural log) of {kept} "
        f"(of {len(pool.label_names)}), with each row's id{' and label' if pool.data.label else ''}. The rows "
        "themselves are not included.\n\n"
        + _members(pool, tables).markdown()
        + "\n\n"
        + _code(f'load_dataset("{repo_id}", "{tables[0].config}", split="{tables[0].split}")')
        + "\nWith hf_soups, for ensembles and cascades of these models:\n\n"
        "```python\nfrom huggingface_hub import snapshot_download\nfrom hf_soups import read_pool\n\n"
        f'pool = read_pool(snapshot_download("{repo_id}", repo_type="dataset"))\n```\n'
    )
    return _card(about, repo_id, text)


def _members(pool: Pool, tables: Sequence[TableOf]) -> MarkdownTable:
    rows = []
    for table in tables:
        member = pool.members[table.member]
        counted = [amount(None if value is None else float(value)) for value in (member.parameters, member.macs)]
        rows.append(
            (member.name, table.config, member.dtype, *counted, f"`{member.sha256[:16]}`" if member.sha256 else "-")
        )
    columns = ("Member", "Config", "Dtype", "Parameters", UNITS["macs"], "SHA-256 of its weights (first 16 digits)")
    return MarkdownTable("Members", columns, tuple(rows))


def _code(load: str) -> str:
    return f"```python\nfrom datasets import load_dataset\n\nrows = {load}\n```\n"


def _card(about: Mapping[str, Any], repo_id: str, text: str) -> str:
    import yaml

    head = yaml.safe_dump(dict(about), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n# {repo_id}\n\n{text.rstrip()}\n\nMade by `hf-soups push`.\n"
