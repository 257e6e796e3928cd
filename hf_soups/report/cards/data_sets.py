"""README.md of data sets: what they hold, in the Hub's metadata and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from hf_soups.costs import UNITS
from hf_soups.pool.store import Pool
from hf_soups.report.cards.markdown import MarkdownTable
from hf_soups.wording import amount, score_in_words

if TYPE_CHECKING:
    from hf_soups.recipe import Recipe

COSTS = "score_vs_cost.png"
SHOWN = 30  # rows of a leaderboard in its README
TASKS = {"image": "image-classification", "text": "text-classification", "text-pair": "text-classification"}
BOARD_COLUMNS = (
    ("kind, name", "what it is; `ingredients` of `pool` runs are in it"),
    ("status", "finished, or why there are no scores; optimistic: it was chosen on the report rows"),
    ("select, report", "scores, with the ends of 95% bootstrap intervals in `_low` and `_high`; shares, not per cent"),
    ("report_gain", "report score minus that of the best run on select"),
    ("report_nll, report_ece", "negative log-likelihood (natural log) and expected calibration error on report"),
    ("parameters, macs", "of what answers; multiply-adds of one example, of a cascade their mean over report rows"),
    ("train_seconds, device", "of all runs in it together, and what they were measured on"),
)


@dataclass(frozen=True, slots=True)
class TableOf:
    """Where a member's predictions lie as a table."""

    member: str
    config: str  # its name in `load_dataset`
    split: str
    path: str


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
        # the best on select stands there twice: it is a run as well
        "pretty_name": f"Leaderboard of {sum(row['kind'] != 'best on select' for row in rows)} models, soups "
        "and ensembles",
        **({} if recipe is None else {"task_categories": [TASKS[recipe.task.kind]]}),
        "tags": ["hf_soups", "model-soups", "leaderboard"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": table}]}],
    }
    said = "" if recipe is None else f" Task: {recipe.task.name or recipe.name}, metric: {metric}."
    shown = rows[:SHOWN]
    more = f"\n\nThe first {SHOWN} of {len(rows)} rows." if len(rows) > SHOWN else ""
    text = (
        f"A sweep of fine-tunes and what was made of it: each run, soup, ensemble and cascade with its scores.{said} "
        "`select` rows chose what stands here, `report` rows were looked at once."
        f"\n\n{_board_table(shown, metric).markdown()}{more}\n\n"
        + "".join(f"![{_told(name)}]({name})\n\n" for name in pictures)
        + _code(f'load_dataset("{repo_id}", split="train")')
        + "\n## Columns\n\n"
        + MarkdownTable("Columns", ("Column", "Meaning"), BOARD_COLUMNS).markdown()
    )
    return _card(about, repo_id, text)


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
        "task_categories": [TASKS[pool.kind]],
        "tags": ["hf_soups", "predictions"],
        "configs": configs,
    }
    kept = "all classes" if pool.top_k is None else f"the {pool.top_k} most probable classes"
    text = (
        f"What {len(pool)} models answered on {pool.data.rows} rows: the log-probabilities (natural log) of {kept}, "
        f"{len(pool.label_names)} in all, with each row's id{' and label' if pool.data.label else ''}. The rows "
        "themselves are not part of it.\n\n"
        + _members(pool, tables).markdown()
        + "\n\n"
        + _code(f'load_dataset("{repo_id}", "{tables[0].config}", split="{tables[0].split}")')
        + "\nWith hf_soups, for ensembles and cascades of these models:\n\n"
        "```python\nfrom huggingface_hub import snapshot_download\nfrom hf_soups import read_pool\n\n"
        f'pool = read_pool(snapshot_download("{repo_id}", repo_type="dataset"))\n```\n'
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


def _members(pool: Pool, tables: Sequence[TableOf]) -> MarkdownTable:
    rows = []
    for table in tables:
        member = pool.members[table.member]
        counted = [amount(None if value is None else float(value)) for value in (member.parameters, member.macs)]
        rows.append((member.name, table.config, member.dtype, *counted, f"`{member.sha256[:16]}`"))
    columns = ("Member", "Config", "Answered in", "Parameters", UNITS["macs"], "SHA-256 of its weights (start)")
    return MarkdownTable("Members", columns, tuple(rows))


def _code(load: str) -> str:
    return f"```python\nfrom datasets import load_dataset\n\nrows = {load}\n```\n"


def _told(picture: str) -> str:
    """What a picture shows, by its name.

    >>> _told("leaderboard.png"), _told("leaderboard_books.png")
    ('Report score against select score', 'Score on the shift books against report score')
    """
    if picture == COSTS:
        return "Report score against multiply-adds of an example"
    shift = picture.removesuffix(".png").removeprefix("leaderboard").lstrip("_")
    return f"Score on the shift {shift} against report score" if shift else "Report score against select score"


def _card(about: Mapping[str, Any], repo_id: str, text: str) -> str:
    import yaml

    head = yaml.safe_dump(dict(about), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n# {repo_id}\n\n{text.rstrip()}\n\nMade by `hf-soups push`.\n"
