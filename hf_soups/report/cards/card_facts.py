"""Facts: everything that a card says of one folder, read from its files before any of it becomes text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_soups.errors import InputError
from hf_soups.files.downloads import is_repo_id
from hf_soups.recipe.task import SHIFT
from hf_soups.report.cards.data import DataUsed
from hf_soups.report.cards.markdown import MarkdownTable

PIPELINES = {"ForImageClassification": "image-classification", "ForSequenceClassification": "text-classification"}
# what hf_soups adds to transformers, see families.clip_model
OURS = ("CLIPVisionForImageClassification", "SiglipVisionForImageClassification")
CHOSEN = "chosen on these rows, so optimistic"
SHOWN = 12  # classes at most that are named


@dataclass(frozen=True, slots=True)
class Said:
    """What no file of a soup or cascade holds, so that somebody has to say it; empty: nothing is said."""

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


def classes_in_words(kind: str, names: Sequence[str]) -> str:
    """What a model does, for people who do not know it.

    >>> classes_in_words("text-pair", ("no", "yes"))
    'It sorts pairs of texts into 2 classes: no, yes.'
    """
    names = [" ".join(name.split()).replace("`", "'") for name in names]  # they can come from anywhere
    rows = {"image": "images", "text": "texts", "text-pair": "pairs of texts"}[kind]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    named = f": {', '.join(names[:SHOWN])}{more}" if names else ""
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
