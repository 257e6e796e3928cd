"""CascadeConfig: what config.json of a cascade says, and what it may not say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from hf_soups.cascades.plan import Plan, plan_of
from hf_soups.errors import InputError
from hf_soups.files.configs import check_config
from hf_soups.files.downloads import is_repo_id
from hf_soups.files.reading import as_record
from hf_soups.models.loading import quiet, readable
from hf_soups.recipe import LARGEST_SIDE

KINDS = ("image", "text", "text-pair")
DTYPES = ("float32", "bfloat16", "float16")
FOLDER = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
COMMIT = re.compile(r"[0-9a-f]{40}")
CODE = ("auto_map", "custom_pipelines")  # keys that name code to run


@dataclass(frozen=True, slots=True)
class Place:
    """Where one member's weights lie, and how they are used.

    Either `subfolder` alone, inside the cascade's own folder, or `repo` with a commit as `revision` (and then perhaps
    a subfolder of that repo).
    """

    name: str
    subfolder: str | None = None
    repo: str | None = None
    revision: str | None = None
    image_size: int | None = None  # pixels; None: as its processor says
    dtype: str = "float32"  # that it answers in
    label_order: tuple[int, ...] = ()  # its logits, in the cascade's order of labels; empty: they are in that order
    sha256: str = ""  # of its weight files, as they were built in

    def __post_init__(self) -> None:
        _check_place(self)

    @property
    def weights(self) -> tuple[str | None, ...]:
        """What names the weights: equal for two members that share them."""
        return (self.repo, self.revision, self.subfolder)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.repo, self.subfolder))) + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class _ConfigTypes:
    """The types of what config.json of a cascade holds, before transformers uses it."""

    kind: str
    members: list[Any]
    plan: dict[str, Any]
    frontier: list[dict[str, Any]]
    max_length: int | None
    id2label: dict[int, str] | None


class CascadeConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """The members of a cascade, the plan that it follows, and the plans that `budget` can choose instead.

    Attributes:
        kind: what a row is: "image", "text" or "text-pair".
        members: the fields of a `Place` for each member.
        plan: the fields of the `Plan` as built; its thresholds, rule, temperatures and costs (with `unit` and
            `hardware`) are what runs.
        frontier: further plans over these members.
        max_length: texts are cut after so many tokens; None: at each tokenizer's own limit.
    Raises:
        InputError: if it is not consistent, names code, or points outside its folder.
    """

    model_type = "cascade"
    kind: str = "image"
    members: list[Any] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    frontier: list[Any] = field(default_factory=list)
    max_length: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        code = next((key for key in CODE if kwargs.get(key)), None)
        if code is not None:
            raise InputError(
                f"config.json of the cascade has {code!r}, which names code to run. A cascade needs none: remove it."
            )
        raw = {f.name: getattr(self, f.name) for f in fields(_ConfigTypes)}
        as_record(raw, _ConfigTypes, "config.json of the cascade", what="a cascade", again="Build the cascade again.")
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self.label2id is None and self.id2label:
            self.label2id = {str(name): int(index) for index, name in self.id2label.items()}
        if self.members:  # transformers makes an empty one to compare with
            _check(self)

    @property
    def places(self) -> tuple[Place, ...]:
        """The members, in the order of their numbers."""
        return tuple(_place_of(raw) for raw in self.members)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(place.name for place in self.places)

    @property
    def built(self) -> Plan:
        """The plan as built."""
        return plan_of(self.plan)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans that `budget` chooses from, the one as built among them; of two that run alike only one."""
        built, further = self.built, {plan.way: plan for plan in map(plan_of, self.frontier)}
        # the one as built may know more of itself than the frontier does, such as a lower bound
        stored = further if built.way in further else {built.way: built, **further}
        return tuple({**stored, built.way: built}.values())

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the cascade's answers."""
        table = self.id2label or {}
        return tuple(str(table[i]) for i in range(len(table)))  # type: ignore[index]  # integers by now


def read_cascade(folder: str | Path) -> CascadeConfig:
    """The config of a cascade's folder.

    Raises:
        InputError: if there is none that can be read.
    """
    with readable(folder, None, "config.json"), quiet():
        check_config(PreTrainedConfig.get_config_dict(folder)[0], folder)
        config: CascadeConfig = CascadeConfig.from_pretrained(folder)
        return config


def place_values(place: Place) -> dict[str, Any]:
    """The fields of a place as JSON holds them; what says nothing is left out."""
    values = {**asdict(place), "label_order": list(place.label_order)}
    return {name: value for name, value in values.items() if value not in (None, [], "")}


def _place_of(values: Any) -> Place:
    if isinstance(values, Mapping) and values.get("label_order", ()) is None:
        values = {**values, "label_order": []}
    return as_record(values, Place, "config.json of the cascade", what="a member", again="Build the cascade again.")


def _check_place(place: Place) -> None:
    at = f"member {place.name!r} of the cascade"
    if place.subfolder is not None and not FOLDER.fullmatch(place.subfolder):
        raise InputError(
            f"{at} lies in {place.subfolder!r}; expected the name of one folder inside the cascade's, such as "
            "'member_0'. Nothing outside is read."
        )
    if place.repo is None and place.subfolder is None:
        raise InputError(f"{at} has neither a subfolder nor a repo. Build the cascade again.")
    if place.repo is not None and not is_repo_id(place.repo):
        raise InputError(f"{at} lies in {place.repo!r}, which is no id of a Hub repo. Nothing outside is read.")
    if place.repo is not None and not COMMIT.fullmatch(str(place.revision)):
        raise InputError(
            f"{at} is at revision {place.revision!r} of {place.repo}; expected a commit (40 hexadecimal digits), so "
            "that nobody can change it. Name the commit."
        )
    if place.dtype not in DTYPES:
        raise InputError(f"{at} is to answer in {place.dtype!r}; expected one of {', '.join(DTYPES)}.")
    if place.image_size is not None and not 0 < place.image_size <= LARGEST_SIDE:
        raise InputError(f"{at} has images of {place.image_size} pixels; expected 1 to {LARGEST_SIDE:,}.")


def _check(config: CascadeConfig) -> None:
    names = config.names
    if config.kind not in KINDS:
        raise InputError(f"the cascade is of kind {config.kind!r}; expected one of {', '.join(KINDS)}.")
    if len(set(names)) != len(names):
        raise InputError(f"the cascade's members are {', '.join(names)}: one name stands there twice.")
    for plan in config.plans:
        _check_members(plan.members, names)
    if sorted(config.id2label or {}) != list(range(config.num_labels or 0)):
        raise InputError(f"the cascade's id2label is not numbered 0, 1, 2, ...: {config.id2label}. Build it again.")
    if config.max_length is not None and not (type(config.max_length) is int and config.max_length > 0):
        raise InputError(
            f"the cascade cuts texts after {config.max_length!r} tokens; expected 1 or more. Build it again."
        )
    for place in config.places:
        if place.label_order and len(place.label_order) != config.num_labels:
            raise InputError(
                f"member {place.name!r} gives {len(place.label_order)} labels, the cascade has {config.num_labels}. "
                "Build it again."
            )
        if len(set(place.label_order)) < len(place.label_order) or min(place.label_order, default=0) < 0:
            raise InputError(
                f"member {place.name!r} gives its labels in the order {list(place.label_order)}; expected different "
                "numbers from 0 on, each for one logit. Build it again."
            )


def _check_members(used: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in used if name not in names]
    if unknown:
        raise InputError(
            f"a plan of the cascade uses {', '.join(unknown)}, but its members are {', '.join(names)}. Build it again."
        )
