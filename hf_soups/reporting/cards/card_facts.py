"""Facts of a card: everything that it says of one folder, before any of it becomes text, and its scores for the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from hf_soups.cascades.evidence import Evidence
from hf_soups.data.sources import is_single_file
from hf_soups.errors import InputError
from hf_soups.files.downloads import is_repo_id
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, REGRESSION, ProblemType
from hf_soups.metrics import traits_of
from hf_soups.recipe.origin import place_shown
from hf_soups.recipe.task import REPORT, SHIFT, Task
from hf_soups.reporting.cards.markdown import MarkdownTable, without_html

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from hf_soups.leaderboard import Leaderboard

PIPELINES = {"ForImageClassification": "image-classification", "ForSequenceClassification": "text-classification"}
# what hf_soups adds to transformers, see families.clip_model
OURS = ("CLIPVisionForImageClassification", "SiglipVisionForImageClassification")
CHOSEN = "chosen on these rows, so optimistic"
SCORE_NAME = re.compile(rf"\S+ on (select|report|{SHIFT}\w+)( \({CHOSEN}\))?")  # names of scores that cards are given
# metrics that the Hub has a page of: evaluate-metric/<id>
HUB_METRICS = frozenset(
    {"accuracy", "f1", "precision", "recall", "matthews_correlation", "pearsonr", "spearmanr", "roc_auc", "mse", "mae"}
)
SHOWN = 12  # classes at most that are named


@dataclass(frozen=True, slots=True)
class CardDetails:
    """What no file of a soup or cascade holds, so that somebody has to name it; empty: not named."""

    license: str = ""  # the Hub's word for it, such as "apache-2.0"
    language: tuple[str, ...] = ()  # codes such as "en"
    data_set: str = ""  # id of the Hub that local data are a copy of
    base_models: tuple[str, ...] = ()  # ids of the Hub that local checkpoints are copies of, or come from

    def __post_init__(self) -> None:
        for place in filter(None, (self.data_set, *self.base_models)):
            if not is_repo_id(place):
                raise InputError(f"{place!r} is no id of a Hub repo; expected 'owner/name', such as 'nyu-mll/glue'.")


@dataclass(frozen=True, slots=True)
class CardScore:
    """One score as the folder's files hold it."""

    metric: str
    value: float
    role: str  # "select", "report" or "shift-<name>"
    optimistic: bool  # the model was chosen on these rows
    rows: int | None = None  # that it was computed on

    @property
    def name(self) -> str:
        """Its name in the metadata; no two scores of a card share one."""
        return f"{self.metric} on {self.role}" + (f" ({CHOSEN})" if self.optimistic else "")


@dataclass(frozen=True, slots=True)
class DataUsed:
    """A data set and, by role of rows ("train", "select", "report", "shift-<name>"), where the rows were taken."""

    path: str  # an id of the Hub, or ./NAME
    name: str = ""  # of the task
    kind: str = ""  # text, text-pair or image; "" where it is not known
    config: str | None = None
    revision: str | None = None
    columns: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)  # by role, where they were counted
    share: str = ""  # of the select split's rows that became report rows; "": other rows
    elsewhere: Mapping[str, DataUsed] = field(default_factory=dict)  # by role: shifts of other data sets

    @classmethod
    def of_task(cls, task: Task, rows: Mapping[str, int] | None = None) -> DataUsed:
        """The data of a recipe's task; select rows are cut from train where it names no others."""
        shifts = {f"{SHIFT}{name}": task.of_shift(name) for name in task.shifts}
        report = task.train if is_single_file(task) and task.report == REPORT else task.report  # cut from it
        select = task.select if isinstance(task.select, str) else task.train if task.select is None else report
        splits = {"train": task.train, "select": select, "report": report}
        others = {
            role: cls(shift.path, role.removeprefix(SHIFT), config=shift.config, revision=shift.revision)
            for role, shift in shifts.items()
            if shift.path != task.path
        }
        return cls(
            task.path, task.name, task.kind, task.config, task.revision, task.columns,
            splits | {role: shift.report for role, shift in shifts.items()}, dict(rows or {}), elsewhere=others,
        )  # fmt: skip

    @classmethod
    def of_evidence(cls, evidence: Evidence) -> DataUsed | None:
        """The data of a cascade's pool; None where it keeps no evidence."""
        if not evidence.data:
            return None
        rows = {role: data.rows for role, data in evidence.data.items()}
        splits = {role: data.split for role, data in evidence.data.items()}
        if evidence.recipe:
            known = cls.of_task(Task.model_validate(evidence.recipe["task"]), rows)
            # a pool's split is one of the recipe's roles, such as "select", and has another name in the data set
            named = {role: known.splits.get(split, split) for role, split in splits.items()}
            return replace(known, splits={**known.splits, **named}, share=evidence.report_share)
        data = evidence.data["select"]
        place = (data.config, data.revision, data.columns)
        return cls(data.path, "", "", *place, splits, rows, evidence.report_share)

    def table(self, data_set: str | None, record: str, counted: str) -> MarkdownTable:
        """All of it; a local path is not shown.

        Args:
            data_set: its id on the Hub, where it has one.
            record: the file that says so.
            counted: the file that holds the numbers of rows.
        """
        shifts = [role for role in self.splits if role.startswith(SHIFT)]
        values: dict[str, Any] = {
            "task": self.name,
            "data set": data_set or f"local files, ./{PurePath(self.path).name}",
            "config": self.config,
            "revision": self.revision,
            "split for train": self.splits.get("train"),
            "split for select": self._split("select"),
            "split for report": self._split("report"),
            **{f"shift {role.removeprefix(SHIFT)!r}": self._shift(role) for role in shifts},
            **{f"{role} rows": count for role, count in self.rows.items()},
            "columns": ", ".join(self.columns),
        }
        table = MarkdownTable.of_values("Data", values, record=record)
        return replace(table, other_records={f"{role} rows": counted for role in self.rows})

    def _shift(self, role: str) -> str:
        other = self.elsewhere.get(role)
        return self.splits[role] if other is None else f"{self.splits[role]} of {place_shown(other.path)}"

    def _split(self, role: str) -> str | None:
        split = self.splits.get(role)
        if split is not None and self.share:
            return f"{split}, {self.share if role == 'report' else 'the others'} of the rows that were answered"
        cut = role == "select" and split is not None and split == self.splits.get("train")
        return f"{split}, rows cut from it" if cut else split


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What one folder's card says; `tables` hold every figure of its text."""

    record: str  # the file that the figures come from, where a table names no other
    about: str  # what it is, in a sentence or two
    library: str
    pipeline_tag: str
    tags: tuple[str, ...]
    base_models: tuple[str, ...]  # ids of the Hub
    metric: str | None
    scores: tuple[CardScore, ...]
    tables: tuple[MarkdownTable, ...]
    limits: tuple[str, ...]
    cascade: bool
    pair: bool  # it takes pairs of texts
    notes: Mapping[str, str] = field(default_factory=dict)  # below a table, by the table's title
    data: DataUsed | None = None
    recipe: str = ""  # YAML
    ours: bool = False  # its class is one that hf_soups adds to transformers
    words: bool = False  # it answers with label words, which no stock pipeline asks for
    board: Leaderboard | None = None  # to be drawn
    every_label: bool = False  # its rows may have several labels
    relation: str | None = None  # of the model to `base_models`, in the Hub's words
    code: bool = False  # the folder has code by which transformers alone loads it
    extra: str = ""  # of hf_soups, that running it needs
    cites: tuple[str, ...] = ()  # keys in citations.bib
    license: str = ""  # of all that it was made of, where they agree

    @property
    def published(self) -> tuple[CardScore, ...]:
        """Scores fit to stand beside those of others: of the metric chosen by, on rows that nothing was chosen on."""
        return tuple(s for s in self.scores if s.role == "report" and s.metric == self.metric and not s.optimistic)

    def indexed(self, data_set: str | None) -> list[EvalResult]:
        """What `model-index` says: scores by metrics of the Hub, on rows of its data sets that nothing was chosen on.

        Args:
            data_set: id on the Hub of the task's own rows, where they have one.
        """
        found = (eval_result(self, s, data_set) for s in self.scores if s.role != "select" and not s.optimistic)
        return [result for result in found if result is not None]


def classes_in_words(kind: str, names: Sequence[str], of_type: ProblemType = CLASSIFICATION) -> str:
    """What a model does, for people who do not know it.

    >>> classes_in_words("text-pair", ("no", "yes"))
    'It sorts pairs of texts into 2 classes: no, yes.'
    """
    names = [without_html(" ".join(name.split()).replace("`", "'")) for name in names]  # they can come from anywhere
    rows = {"image": "images", "text": "texts", "text-pair": "pairs of texts"}[kind]
    if of_type == REGRESSION:
        return f"It gives {rows} a number{f': {names[0]}' if names else ''}."
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    between = "; " if any("," in name for name in names) else ", "  # ImageNet's classes have commas in their names
    named = f": {between.join(names[:SHOWN])}{more}" if names else ""
    if of_type == MULTI_LABEL:
        return f"It gives {rows} any number of {len(names) or 'named'} labels{named}."
    return f"It sorts {rows} into {len(names) or 'named'} classes{named}."


def rows_in_words(role: str, optimistic: bool) -> str:
    """What the rows of a role are, for people.

    >>> rows_in_words("report", False), rows_in_words("select", True)
    ('report: nothing was chosen on them', 'select: chosen on these rows, so optimistic')
    """
    if optimistic:
        return f"{role}: {CHOSEN}"
    kind = f"shift {role.removeprefix(SHIFT)!r}" if role.startswith(SHIFT) else role
    return f"{kind}: nothing was chosen on them"


def report_first(role: str) -> int:
    """The order of roles for people: what nothing was chosen on, then shifts, then what was chosen on."""
    return 0 if role == "report" else 1 if role.startswith(SHIFT) else 2


def hub_ids(sources: Sequence[tuple[str, str | None]], folder: Path) -> tuple[str, ...]:
    """Those of (source, revision) that are repos of the Hub, each once; never a path of somebody's machine.

    "runs/one" can be both. It counts as a path when it is one, seen from here or from any folder above `folder`; a name
    without owner counts as a repo only with a revision.
    """
    places = (Path.cwd(), *folder.resolve().parents)

    def is_hub(source: str, revision: str | None) -> bool:
        if not is_repo_id(source) or not (revision or "/" in source):
            return False
        return not any((place / source).exists() for place in places)

    return tuple(dict.fromkeys(source for source, revision in sources if is_hub(source, revision)))


def hub_metrics(metric: str | None) -> list[str] | None:
    """The Hub's names of what a metric consists of; None where it has none.

    >>> hub_metrics("accuracy_f1"), hub_metrics("accuracy"), hub_metrics("nll"), hub_metrics(None)
    (['accuracy', 'f1'], ['accuracy'], None, None)
    """
    names = (traits_of(metric).hub_parts or (_hub_name(metric),)) if metric else ()
    return [name for name in names if name] or None


def _hub_name(metric: str) -> str:
    """As the metric says, or its own name where that is one of the Hub's; empty where it has none."""
    return traits_of(metric).hub_name or (metric if metric in HUB_METRICS else "")


def eval_result(facts: CardFacts, score: CardScore, data_set: str | None) -> EvalResult | None:
    """One entry of `model-index`; None where the Hub knows the metric or the data set not."""
    from huggingface_hub import EvalResult

    data = facts.data or DataUsed("")
    other = data.elsewhere.get(score.role)
    place = data if other is None else other
    known = data_set if other is None else other.path if is_repo_id(other.path) else None
    if known is None or not _hub_name(score.metric):
        return None
    return EvalResult(
        task_type=facts.pipeline_tag,
        dataset_type=known,
        dataset_name=place.name or known,
        dataset_split=data.splits.get(score.role, score.role),
        metric_type=_hub_name(score.metric),
        metric_value=score.value,
        metric_name=score.name,
        dataset_config=place.config,
        dataset_revision=place.revision,
    )


def eval_entries(facts: CardFacts, data_set: str | None) -> str:
    """YAML for `.eval_results/`; empty where there is no such score, no data set of the Hub, or no such format yet."""
    import yaml

    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:  # huggingface_hub before it knew the format
        return ""
    data = facts.data
    if data is None or data_set is None or not facts.published:
        return ""
    entries = [
        EvalResultEntry(
            data_set,
            data.config or "default",
            s.value,
            dataset_revision=data.revision,
            notes=f"{s.metric} on {f'{s.rows} rows of ' if s.rows else ''}{data.splits.get('report', 'report')}",
        )
        for s in facts.published
    ]
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
