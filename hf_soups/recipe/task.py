"""Task: what is to be answered. Columns, label names, splits and the metric; five of GLUE's tasks by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from hf_soups.errors import RecipeError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, OF_CONFIG, PROBLEM_TYPES, REGRESSION, ProblemType

REPORT = "validation"  # the split that is looked at once where none is named
SHIFT = "shift-"  # before a shift's name where it stands among select and report, also as a file's name


class Part(BaseModel):
    """A mapping of a recipe: unknown keys are refused, and numbers are numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    LATER: ClassVar[frozenset[str]] = frozenset()  # keys that 0.1.0 did not know
    LEFT_OUT: ClassVar[frozenset[str]] = frozenset()  # keys that say something else when they are not given

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later keys that have their default: records and digests that hold a recipe stay what they were."""
        values: dict[str, Any] = serialize(self)
        fields, given = type(self).model_fields, self.model_fields_set
        return {
            k: v
            for k, v in values.items()
            if (k not in self.LATER or getattr(self, k) != fields[k].default) and (k not in self.LEFT_OUT or k in given)
        }

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = str(cls.model_fields[str(info.field_name)].annotation)
        given = value if isinstance(value, list | tuple) else [value]
        if re.search(r"\b(int|float)\b", wanted) and any(isinstance(v, bool) for v in given):
            raise ValueError(f"expected a number, got {value!r} (YAML reads yes, no, on and off so)")
        return value


class MetricByEvaluate(Part):
    """Any metric of the `evaluate` library, from a local folder or the Hub.

    Such a metric is a script: a local one is run because the recipe names it, one from the Hub only with `trust_code`.
    """

    load: str = Field(description="A local folder or file, or a Hub name such as f1.")
    config: str | None = Field(None, description="Of the metric.")
    key: str | None = Field(None, description="Which of the returned values is the score. Default: the only one.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the metric's compute().")
    greater_is_better: bool = Field(True, description="Whether more is better.")
    trust_code: bool = Field(False, description="Run a metric's script that comes from the Hub.")


def _one_or_more(columns: Any) -> Any:
    return (columns,) if isinstance(columns, str) else columns


class Shift(Part):
    """Further report rows of another distribution, answered and scored beside `report` and never chosen on.

    What is not given is the task's own; `config` and `revision` only where `path` is the task's own too.
    """

    split: str = Field(description="Of the data set, or a file's name.")
    path: str | None = Field(None, description="Another data set. Default: the task's.")
    config: str | None = Field(None, description="Of the data set.")
    revision: str | None = Field(None, description="Of the data set's repo.")
    text: tuple[str, ...] | None = Field(None, description="Its text columns.")
    image: str | None = Field(None, description="Its image column.")
    label: str | None = Field(None, description="Its label column.")
    label_names: tuple[str, ...] | None = Field(
        None, description="The task's name of each class, in the order of the shift's own classes."
    )
    rows: int | None = Field(None, ge=1, description="A stratified subset.")
    only_its_classes: bool = Field(
        False,
        description="Whether answers are chosen from the classes that it has rows of, as for ImageNet-R and -A.",
    )

    @field_validator("text", mode="before")
    @classmethod
    def _a_text_is_one_column(cls, columns: Any) -> Any:
        return _one_or_more(columns)


# what a task is scored by where its recipe names no metric
METRIC_OF: Mapping[ProblemType, str] = {
    CLASSIFICATION: "accuracy", MULTI_LABEL: "f1_micro", REGRESSION: "pearson",
}  # fmt: skip


class Task(Part):
    """One task over one data set: a class, any number of labels, or a number for each row."""

    LATER = frozenset({"select", "problem_type", "labels"})
    LEFT_OUT = frozenset({"report"})  # rows that a recipe names must be there; else they may be cut from train

    name: str = Field("", description="A known task, whose other values are then the defaults, or a name of yours.")
    kind: Literal["text", "text-pair", "image"] = Field(
        description="Of the rows. `classification`, `multi-label` and `regression` are taken for `problem_type`."
    )
    problem_type: ProblemType = Field(
        CLASSIFICATION,
        description="What a row's label is: one of several classes, any number of labels (multi-label) or a number "
        "(regression). The words of transformers' configs are taken too.",
    )
    path: str = Field(
        description="A Hub data set, a folder in Hub layout or of tables, an imagefolder, or a file or pattern of "
        "parquet, csv, tsv, txt, json or jsonl, also compressed."
    )
    config: str | None = Field(None, description="Of the data set.")
    revision: str | None = Field(None, description="Of the data set's repo.")
    text: tuple[str, ...] = Field((), description="The text column, or for pairs both.")
    image: str | None = Field(None, description="The image column.")
    label: str = Field("label", description="The label column: names, numbers or a ClassLabel.")
    labels: tuple[str, ...] = Field(
        (), description="Multi-label: a column of 0 and 1 for each label. Default: `label` is a column of lists."
    )
    label_names: tuple[str, ...] | None = Field(
        None, description="Names of the classes. Default: the ClassLabel's, or the sorted values of the column."
    )
    train: str = Field("train", description="The split, or file, that train and select are cut from.")
    report: str = Field(
        REPORT,
        description="The split, or file, that is looked at once. Cut from train where there are no other rows.",
    )
    select: str | float | None = Field(
        None,
        description="The split, or file, that is chosen on; or a share of report, as 0.5. Default: cut from train.",
    )
    metric: str | MetricByEvaluate = Field(
        "accuracy",
        description="Of selection and report, or a mapping: any metric of the evaluate library. Default of multi-label "
        "f1_micro, of regression pearson.",
    )
    shifts: dict[str, Shift] = Field(
        default_factory=dict, description="Further report rows, by name; a text is a split of the same data set."
    )

    @model_validator(mode="before")
    @classmethod
    def _problem_type_as_written(cls, given: Any) -> Any:
        """The problem type under either key and in transformers' words too; what follows from it and from `labels`."""
        if not isinstance(given, Mapping):
            return given
        values = dict(given)
        if values.get("kind") in (*PROBLEM_TYPES, *OF_CONFIG) and "problem_type" not in values:
            values["problem_type"] = values.pop("kind")
            values["kind"] = "image" if values.get("image") else ("text", "text-pair")[_columns_in(values) == 2]
        if isinstance(values.get("label"), list | tuple):
            values["labels"] = values.pop("label")
        of_type = values.get("problem_type", MULTI_LABEL if values.get("labels") else CLASSIFICATION)
        values["problem_type"] = OF_CONFIG.get(of_type, of_type) if isinstance(of_type, str) else of_type
        values.setdefault("metric", METRIC_OF.get(values["problem_type"], "accuracy"))
        return values

    @field_validator("text", mode="before")
    @classmethod
    def _a_text_is_one_column(cls, columns: Any) -> Any:
        return _one_or_more(columns)

    @field_validator("select")
    @classmethod
    def _a_number_is_a_share(cls, select: str | float | None) -> str | float | None:
        if isinstance(select, float) and not 0 < select < 1:
            raise ValueError(f"{select:g} is no share of report; give a number between 0 and 1, or a split's name")
        return select

    @model_validator(mode="after")
    def _select_is_another_split(self) -> Task:
        if self.select in (self.train, self.report):
            role = "trained" if self.select == self.train else "reported"
            raise ValueError(
                f"task.select: {self.select!r} is {role} on. Give another split, or a share of report such as 0.5; "
                "without it, the rows to choose on are cut from train"
            )
        return self

    @field_validator("shifts", mode="before")
    @classmethod
    def _a_text_is_a_split(cls, shifts: Any) -> Any:
        if not isinstance(shifts, Mapping):
            return shifts
        return {name: {"split": s} if isinstance(s, str) else s for name, s in shifts.items()}

    @model_validator(mode="after")
    def _columns_fit_the_kind(self) -> Task:
        wanted = {"text": 1, "text-pair": 2, "image": 0}[self.kind]
        if len(self.text) != wanted:
            raise ValueError(f"a task of kind {self.kind!r} names {wanted} text columns, got {list(self.text)}")
        if (self.kind == "image") != (self.image is not None):
            raise ValueError(
                f"a task of kind {self.kind!r} {'needs' if self.kind == 'image' else 'takes no'} `image` column"
            )
        return self

    @model_validator(mode="after")
    def _labels_fit_the_problem_type(self) -> Task:
        if self.labels and self.problem_type != MULTI_LABEL:
            raise ValueError(f"several label columns {list(self.labels)} are for multi-label, not {self.problem_type}")
        if self.label_names is not None and self.problem_type == REGRESSION:
            raise ValueError("label_names are of classes, and a regression has none; leave them out")
        narrow = [n for n, shift in self.shifts.items() if shift.only_its_classes or shift.label_names is not None]
        if narrow and self.problem_type != CLASSIFICATION:
            raise ValueError(f"shifts.{narrow[0]}: label_names and only_its_classes are for classification")
        return self

    @model_validator(mode="after")
    def _shifts_fit(self) -> Task:
        for name, shift in self.shifts.items():
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in ("train", "select", "report"):
                raise ValueError(
                    f"shifts: {name!r} cannot be a shift's name; give a word of letters, digits and _ that is none of "
                    "train, select, report"
                )
            if shift.text is not None and len(shift.text) != len(self.text):
                raise ValueError(f"shifts.{name}: the task has {len(self.text)} text columns, got {list(shift.text)}")
            if shift.image is not None and self.image is None:
                raise ValueError(f"shifts.{name}: the task's rows are texts, got the image column {shift.image!r}")
            at = self.of_shift(name)
            if (at.path, at.config, at.report) == (self.path, self.config, self.train):
                raise ValueError(f"shifts.{name}: {self.train!r} is the split that models are trained on")
        return self

    def of_shift(self, name: str) -> Task:
        """The task whose report split is that shift: its place and its columns. The label names stay the task's."""
        shift = self.shifts[name]
        given = shift.model_dump(exclude={"split", "label_names", "rows"}, exclude_none=True)
        if shift.path is not None:  # another data set has configs and revisions of its own
            given = {"config": None, "revision": None, **given}
        return self.model_copy(update={**given, "report": shift.split, "select": None, "shifts": {}})

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that the labels are in."""
        return self.labels or (self.label,)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns the model reads."""
        return self.text if self.image is None else (self.image,)


def _columns_in(values: Mapping[str, Any]) -> int:
    """How many text columns a mapping names."""
    text = values.get("text", ())
    return len(text) if isinstance(text, list | tuple) else 1


def _glue(
    name: str,
    text: tuple[str, ...],
    labels: tuple[str, ...] | None,
    metric: str,
    problem_type: ProblemType = CLASSIFICATION,
) -> Task:
    return Task(
        name=f"glue/{name}",
        kind="text-pair" if len(text) == 2 else "text",
        path="nyu-mll/glue",
        config=name,
        text=text,
        label_names=labels,
        metric=metric,
        problem_type=problem_type,
    )


# Metrics as the Model soups paper scores them (Wortsman et al. 2022, appendix on text).
NAMED = {
    "glue/mrpc": _glue("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), "accuracy_f1"),
    "glue/rte": _glue("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment"), "accuracy"),
    "glue/cola": _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews"),
    "glue/sst2": _glue("sst2", ("sentence",), ("negative", "positive"), "accuracy"),
    "glue/stsb": _glue("stsb", ("sentence1", "sentence2"), None, "pearson_spearman", REGRESSION),
}


def named_task(name: str, **changes: Any) -> Task:
    """A task by name, such as "glue/mrpc", with some of its fields changed.

    >>> named_task("glue/mrpc").metric
    'accuracy_f1'
    """
    if name not in NAMED:
        raise RecipeError(
            f"unknown task {name!r}; known by name: {', '.join(NAMED)}. "
            "For other data give a mapping with kind, path and columns."
        )
    return Task(**{**NAMED[name].model_dump(), **changes})
