"""Recipe: one experiment in one YAML file. Unknown keys are refused, every value is checked before anything runs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from hf_soups.errors import RecipeError
from hf_soups.files.problem_types import CLASSIFICATION, REGRESSION
from hf_soups.recipe.prompts import check_words
from hf_soups.recipe.task import NAMED, MetricByEvaluate, Part, Shift, Task

MOST_RUNS = 10_000  # of a sweep
MOST_CHOICES = 1_000  # of one value in a sweep
MOST_SEED = 2**32 - 1  # that numpy and torch both take
LARGEST_SIDE = 4096  # pixels of an image as a model reads it
MOST_TOLD = 10  # things that are wrong, in one error


class Head(Part):
    """How the classifier head of the shared start is made; the same for every run of a sweep."""

    init: Literal["shared-random", "linear-probe", "zero-shot", "label-words", "keep"] = Field(
        "shared-random",
        description="One random head for all runs; a probe fitted on frozen features; CLIP's zero-shot answers; the "
        "words that a language model writes; or the head that the model has.",
    )
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Of the random head.")
    probe_rows: int = Field(2000, ge=1, description="linear-probe: train rows whose frozen features fit the probe.")
    templates: tuple[str, ...] = Field(
        ("a photo of a {}.",), description="zero-shot: what the text tower reads of each class, {} being its name."
    )
    class_texts: dict[str, str] = Field(
        default_factory=dict, description="zero-shot: what stands for a label's name in the templates."
    )
    words: dict[str, str] | None = Field(
        None, description="label-words: what a language model writes for each label. GLUE's tasks have theirs."
    )
    prompt: str | None = Field(
        None, description="label-words: around the texts, with the columns in braces. GLUE's tasks have theirs."
    )

    @field_validator("words", mode="before")
    @classmethod
    def _yes_is_a_word(cls, words: Any) -> Any:
        """YAML reads a bare yes or no as true or false, of labels too."""
        bare = [k for k, v in words.items() if isinstance(k, bool) or isinstance(v, bool)] if words else []
        if isinstance(words, Mapping) and bare:
            raise ValueError(
                'YAML reads yes, no, true and false as truth values. Put labels and words in quotes: "yes"'
            )
        return words

    @field_validator("templates")
    @classmethod
    def _one_place_each(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [template for template in templates if template.count("{}") != 1]
        if wrong or not templates:
            told = f"{wrong[0]!r} has {wrong[0].count('{}')} places" if wrong else "there is none"
            raise ValueError(f'every template has one {{}} for the class, as "a photo of a {{}}."; {told}')
        return templates


class Data(Part):
    """What is cut from the data set, and how rows are encoded."""

    LATER = frozenset({"report_fraction", "on_error"})

    select_fraction: float = Field(0.02, gt=0, lt=1, description="Share of the train split that becomes select.")
    select_minimum: int = Field(
        200, ge=1, description="Rows that select has at least; never more than half of the train split."
    )
    seed: int = Field(0, ge=0, description="Of the cut between train and select, and of the subsets.")
    report_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of the rows that becomes report, where there are no others than train."
    )
    train_rows: int | None = Field(None, ge=1, description="A stratified subset of train, for short runs.")
    report_rows: int | None = Field(None, ge=1, description="A stratified subset of report.")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="What a broken image or a row without text does: end the job, or be left out and counted."
    )
    max_length: int = Field(128, ge=2, description="Tokens at which texts are cut.")
    image_size: int | None = Field(
        None, ge=1, le=LARGEST_SIDE, description="Pixels of a side. Default: the processor's own."
    )


class Train(Part):
    """One fine-tune. `batch_size` is of all processes together, before accumulation."""

    learning_rate: float = Field(2e-5, gt=0, description="At its peak, after the warm-up.")
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW; biases and scales of norms do not decay.")
    batch_size: int = Field(32, ge=1, description="Rows of all processes together, before accumulation.")
    epochs: float = Field(3.0, gt=0, description="Passes over the train rows.")
    max_steps: int | None = Field(None, ge=1, description="Ends training earlier, or later, than epochs says.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the rate rises from 0.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="Of the rate after the warm-up.")
    gradient_accumulation: int = Field(1, ge=1, description="Batches that make one step of the optimizer.")
    clip_norm: float = Field(1.0, ge=0, description="Of the gradient; 0: no clipping.")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision in training; fp16 wants a GPU.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label that goes to all classes.")
    group_by_length: bool = Field(False, description="Batch texts of like length: less padding, more speed.")
    horizontal_flip: float = Field(0.0, ge=0, le=1, description="Images: probability.")
    random_crop: float = Field(
        0.0, ge=0, lt=1, description="Images: padding before the crop, as a share of the image's side."
    )
    randaugment_operations: int = Field(0, ge=0, description="Images: random changes of each.")
    randaugment_magnitude: int = Field(9, ge=0, le=30, description="Images: how strong these changes are.")
    mixup: float = Field(0.0, ge=0, description="Images: alpha of the Beta distribution; 0: none.")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Of the order of rows, dropout and augmentation.")
    random_weights: bool = Field(
        False, description="Begin from random weights, drawn by seed: copies for ensembles, which no soup can mix."
    )
    keep: Literal["last", "best"] = Field(
        "last", description="The last weights, or the best on select, looked at once an epoch."
    )
    eval_batch_size: int = Field(64, ge=1, description="Rows at once when select and report are answered.")


class Distribution(Part):
    """Where a sweep draws one value from: exactly one of these."""

    log_uniform: tuple[float, float] | None = Field(None, description="Between two bounds, evenly in the logarithm.")
    uniform: tuple[float, float] | None = Field(None, description="Between two bounds, evenly.")
    integer: tuple[int, int] | None = Field(None, description="A whole number between two bounds, both included.")
    choice: tuple[Any, ...] | None = Field(None, description="One of these values.")

    @model_validator(mode="after")
    def _one(self) -> Distribution:
        given = [k for k, v in self if v is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of log_uniform, uniform, integer, choice")
        bounds = getattr(self, given[0])
        if given[0] != "choice" and bounds[0] > bounds[1]:
            raise ValueError(f"{given[0]}: {bounds[0]} is above {bounds[1]}")
        if given[0] == "log_uniform" and bounds[0] <= 0:
            raise ValueError("log_uniform needs bounds above 0")
        if given[0] == "choice" and not 0 < len(bounds) <= MOST_CHOICES:
            raise ValueError(f"choice needs at least one value and takes {MOST_CHOICES:,}; got {len(bounds):,}")
        return self


class Sweep(Part):
    """Many fine-tunes: `runs` random draws, or every combination of the choices (`grid`)."""

    method: Literal["random", "grid"] = Field("random", description="Random draws, or all combinations of choices.")
    runs: int = Field(8, ge=1, le=MOST_RUNS, description="Random draws; a grid has as many runs as combinations.")
    seed: int = Field(0, ge=0, description="Of the draws, and of the runs' own seeds.")
    space: dict[str, Distribution] = Field(
        default_factory=dict, description="A distribution for each value of `train` that varies."
    )

    @field_validator("space")
    @classmethod
    def _only_train_fields(cls, space: dict[str, Distribution]) -> dict[str, Distribution]:
        for key in space:
            if key not in Train.model_fields:
                raise ValueError(f"unknown key {key!r}{_did_you_mean(key, Train.model_fields)}")
        return space

    @model_validator(mode="after")
    def _grid_needs_choices(self) -> Sweep:
        if self.method == "grid":
            combinations = math.prod(len(values.choice or ()) for values in self.space.values())
            if combinations > MOST_RUNS:
                raise ValueError(f"a grid of {combinations:,} combinations; a sweep has at most {MOST_RUNS:,} runs")
            for key, values in self.space.items():
                if values.choice is None:
                    raise ValueError(f"a grid needs `choice` for every key; {key} has none")
        return self


class Recipe(Part):
    """One experiment: a task, a start, and how it is fine-tuned once or many times."""

    name: str = Field("", description="Of runs in messages, and of the tracker's project. Default: the file's name.")
    task: Task = Field(description="The name of a known task, or a mapping.")
    model: str = Field(description="What is fine-tuned: a folder or a Hub repo.")
    revision: str | None = Field(None, description="Of the model's repo.")
    members: tuple[str, ...] = Field(
        (), description="What `hf-soups predict --recipe` asks if no model is named: MODEL, NAME=MODEL, MODEL@160."
    )
    head: Head = Field(default_factory=Head, description="How the shared start's head is made.")
    data: Data = Field(default_factory=Data, description="How rows are cut and encoded.")
    train: Train = Field(default_factory=Train, description="How it is fine-tuned.")
    sweep: Sweep = Field(default_factory=Sweep, description="How many times, and what varies.")
    tracker: Literal["trackio", "wandb"] | None = Field(
        None, description="Also tells each run to this tracker (extra of the same name)."
    )

    @model_validator(mode="after")
    def _label_words_fit_the_task(self) -> Recipe:
        head = self.head
        if head.init == "label-words":
            check_words(head.words, head.prompt, self.task)
        elif head.words is not None or head.prompt is not None:
            raise ValueError(f"head.words and head.prompt are for head.init: label-words, not {head.init}")
        return self

    @model_validator(mode="after")
    def _parts_fit_the_problem_type(self) -> Recipe:
        of_type = self.task.problem_type
        if of_type != CLASSIFICATION and self.head.init in ("label-words", "zero-shot"):
            raise ValueError(f"head.init: {self.head.init} answers one of several classes, not rows of {of_type}")
        if of_type == REGRESSION and self.train.label_smoothing:
            raise ValueError("train.label_smoothing is of classes, and a regression has none; leave it out")
        return self

    @field_validator("task", mode="before")
    @classmethod
    def _task_by_name(cls, value: Any) -> Any:
        changes = {"name": value} if isinstance(value, str) else value
        if isinstance(changes, Mapping) and "kind" not in changes and "name" in changes:
            name = changes["name"]
            if name not in NAMED:
                raise ValueError(
                    f"unknown task {name!r}; known by name: {', '.join(NAMED)}; "
                    "for other data give a mapping with kind, path and columns"
                )
            return {**NAMED[name].model_dump(), **changes}
        return value


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe and check it.

    Args:
        path: a YAML file.
        overrides: values to change; a bare name is a field of `train`, a dotted one ("data.max_length") any field.
    Raises:
        RecipeError: if the file is missing, is no YAML mapping, or holds an unknown key or a wrong value.
    """
    from hf_soups.files.plain_yaml import read_yaml

    raw = read_yaml(path, RecipeError, what="the recipe")
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping with at least `task` and `model`.")
    raw.setdefault("name", Path(path).stem)
    return recipe_from(_overridden(raw, overrides or {}), where=str(path))


def dotted(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """A recipe's values by the names that overrides have for them.

    >>> dotted({"model": "bert", "train": {"learning_rate": 0.001, "betas": [0.9, 0.999]}, "sweep": {}})
    {'model': 'bert', 'train.learning_rate': 0.001, 'train.betas': [0.9, 0.999], 'sweep': {}}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping) and value
        found |= dotted(value, f"{at}{key}.") if inner else {f"{at}{key}": value}
    return found


def recipe_from(raw: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """A checked recipe from a mapping; `where` names it in errors."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        # a metric may be a name or a mapping: only what is wrong with the mapping helps
        told = [e for e in error.errors() if e["loc"][-2:] != ("metric", "str")] or error.errors()
        more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
        raise RecipeError(f"{where}: " + "; ".join(map(_told, told[:MOST_TOLD])) + more) from error


def _overridden(raw: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in overrides.items():
        path = key.split(".") if "." in key or key in Recipe.model_fields else ["train", key]
        at = raw
        for part in path[:-1]:
            inner = at.get(part)
            if isinstance(inner, str) and part == "task":
                inner = {"name": inner}
            if inner is None:
                inner = {}
            if not isinstance(inner, dict):
                raise RecipeError(f"cannot set {key}: `{part}` is not a mapping in the recipe.")
            at[part] = dict(inner)
            at = at[part]
        at[path[-1]] = value
    return raw


def _told(error: Any) -> str:
    at = ".".join(_short(part) for part in error["loc"] if part not in ("MetricByEvaluate", "str"))
    if error["type"] == "extra_forbidden":
        known = _fields_at(error["loc"][:-1])
        return f"unknown key `{at}`{_did_you_mean(str(error['loc'][-1]), known)}"
    message = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] in ("missing", "value_error") else f" (got {_short(repr(error['input']))})"
    return f"`{at}`: {message}{got}" if at else message


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _fields_at(loc: tuple[Any, ...]) -> Mapping[str, Any]:
    if "MetricByEvaluate" in loc:
        return MetricByEvaluate.model_fields
    if loc[:2] == ("task", "shifts"):
        return Shift.model_fields
    if loc[:2] == ("sweep", "space"):
        return Distribution.model_fields
    parts: dict[str, type[BaseModel]] = {"task": Task, "head": Head, "data": Data, "train": Train, "sweep": Sweep}
    return parts[loc[0]].model_fields if loc and loc[0] in parts else Recipe.model_fields


def _did_you_mean(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(known)}"
