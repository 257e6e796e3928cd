"""What config.json of a cascade says, and what it may not say; without transformers, whose import takes seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hf_soups.cascades.plan import Plan, plan_of
from hf_soups.errors import InputError
from hf_soups.files.configs import check_config
from hf_soups.files.downloads import is_repo_id
from hf_soups.files.endpoint import Endpoint, Fallback
from hf_soups.files.reading import as_record, read_json
from hf_soups.recipe import LARGEST_SIDE

PROCESSOR_FILE = "preprocessor_config.json"  # of cascades of images: the stock pipeline loads a processor
TOKENIZER_FILE = "tokenizer_config.json"  # of cascades of texts with code
KINDS = ("image", "text", "text-pair")
DTYPES = ("float32", "bfloat16", "float16")
REMOTE = "remote"  # the backend of an endpoint
BACKENDS = ("torch", "onnx", REMOTE)
DEVICE = re.compile(r"(?:cpu|mps|(?:cuda|xpu)(?::\d{1,3})?)?")
FOLDER = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
COMMIT = re.compile(r"[0-9a-f]{40}")
CODE = ("auto_map", "custom_pipelines")  # keys that name code to run
HANDLER_FILE = "handler.py"  # what an inference endpoint of the Hub runs
CODE_FILE = "modeling_cascade.py"  # the only code that one may name: it is never run by hf_soups
TOKENIZER_MAP = {"AutoTokenizer": ["modeling_cascade.CascadeTokenizer", None]}
AGAIN = "Build the cascade again."


@dataclass(frozen=True, slots=True)
class Place:
    """Where one member's weights lie, and how they are used.

    Either `subfolder` alone, inside the cascade's own folder, or `repo` with a commit as `revision` (and then perhaps
    a subfolder of that repo), or an `endpoint` that is asked over HTTP.
    """

    name: str
    subfolder: str | None = None
    repo: str | None = None
    revision: str | None = None
    image_size: int | None = None  # pixels; None: as its processor says
    dtype: str = "float32"  # that it answers in
    device: str = ""  # that it runs on, such as "cuda:1"; empty: where the cascade is asked to run
    backend: str = "torch"  # what runs it
    label_order: tuple[int, ...] = ()  # its logits, in the cascade's order of labels; empty: they are in that order
    sha256: str = ""  # of its weight files, as they were built in
    endpoint: Endpoint | None = None  # its weights are elsewhere
    fallback: Fallback = "error"  # of an endpoint that does not answer: "last" keeps what the members so far answered

    def __post_init__(self) -> None:
        _check_place(self)

    @property
    def is_inside(self) -> bool:
        """Whether its files are in the cascade's own folder."""
        return self.repo is None and self.endpoint is None

    @property
    def weights(self) -> tuple[str | None, ...]:
        """What names the weights: equal for two members that share them."""
        return (self.repo, self.revision, self.subfolder)

    def __str__(self) -> str:
        if self.endpoint is not None:
            return self.endpoint.url
        return "/".join(filter(None, (self.repo, self.subfolder))) + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class StoredCascade:
    """The values of a cascade's config.json; `CascadeConfig` describes them."""

    kind: str
    members: list[Any]
    plan: dict[str, Any]
    frontier: list[dict[str, Any]]
    max_length: int | None
    id2label: dict[int, str] | None

    @property
    def places(self) -> tuple[Place, ...]:
        """The members, in the order of their numbers."""
        return tuple(_place_of(raw) for raw in self.members)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the cascade's answers."""
        table = self.id2label or {}
        return tuple(str(table[i]) for i in range(len(table)))

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


def read_stored(folder: str | Path) -> StoredCascade:
    """What config.json in a folder of this machine says.

    Raises:
        InputError: if there is none that can be read, or it cannot be used.
    """
    path = Path(folder) / "config.json"
    raw = read_json(path, what="a cascade's config", again=AGAIN)
    check_config(raw, folder)
    refuse_code(raw)
    stored = stored_of({"kind": "image", "members": [], "plan": {}, "frontier": [], **raw})
    check_stored(stored)
    return stored


def stored_of(values: Mapping[str, Any]) -> StoredCascade:
    """The values by their types; others of config.json are left out.

    Raises:
        InputError: if one is of another type.
    """
    raw = {f.name: values.get(f.name) for f in fields(StoredCascade)}
    return as_record(raw, StoredCascade, "config.json of the cascade", what="a cascade", again=AGAIN)


def code_map(kind: str) -> dict[str, str]:
    """What config.json of a cascade with code says to transformers, for people without hf_soups."""
    name = "ImageClassification" if kind == "image" else "SequenceClassification"
    classes = {"AutoConfig": "CascadeConfig", f"AutoModelFor{name}": f"CascadeFor{name}"}
    if kind == "image":  # not in the processor's own config, where transformers takes it for a video processor's too
        classes["AutoImageProcessor"] = "CascadeImageProcessor"
    return {auto: f"{CODE_FILE.removesuffix('.py')}.{own}" for auto, own in classes.items()}


def refuse_code(values: Mapping[str, Any]) -> None:
    """Refuse a config that names code to run, other than the file that `build --with-code` writes.

    Raises:
        InputError: if it does.
    """
    allowed = code_map(str(values.get("kind", "image")))
    code = next((key for key in CODE if values.get(key) and (key, values[key]) != ("auto_map", allowed)), None)
    if code is not None:
        raise InputError(
            f"config.json of the cascade has {code!r}, which names code to run. A cascade needs none: remove it."
        )


def place_values(place: Place) -> dict[str, Any]:
    """The fields of a place as JSON holds them; what says nothing, or what goes without saying, is left out."""
    values = {**asdict(place), "label_order": list(place.label_order)}
    values["endpoint"] = None if place.endpoint is None else place.endpoint.to_json()
    values["fallback"] = "" if place.fallback == "error" else place.fallback
    return {
        name: value
        for name, value in values.items()
        if value not in (None, [], "") and (name, value) != ("backend", "torch")
    }


def _place_of(values: Any) -> Place:
    if isinstance(values, Mapping) and values.get("label_order", ()) is None:
        values = {**values, "label_order": []}
    return as_record(values, Place, "config.json of the cascade", what="a member", again=AGAIN)


def _check_place(place: Place) -> None:
    at = f"member {place.name!r} of the cascade"
    if place.subfolder is not None and not FOLDER.fullmatch(place.subfolder):
        raise InputError(
            f"{at} lies in {place.subfolder!r}; expected the name of one folder inside the cascade's, such as "
            "'member_0'. Nothing outside is read."
        )
    if (place.endpoint is not None) != (place.backend == REMOTE) or (
        place.endpoint and (place.subfolder or place.repo)
    ):
        raise InputError(f"{at}: an endpoint has the backend {REMOTE!r} and no files. Build the cascade again.")
    if place.is_inside and place.subfolder is None:
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
    if not DEVICE.fullmatch(place.device):
        raise InputError(f"{at} is to run on {place.device!r}; expected a device such as cpu, cuda or cuda:1.")
    if place.backend not in BACKENDS:
        raise InputError(f"{at} is to be run by {place.backend!r}; expected one of {', '.join(BACKENDS)}.")
    if place.image_size is not None and not 0 < place.image_size <= LARGEST_SIDE:
        raise InputError(f"{at} has images of {place.image_size} pixels; expected 1 to {LARGEST_SIDE:,}.")


def check_stored(config: StoredCascade) -> None:
    """Refuse what does not fit together.

    Raises:
        InputError: with what it is.
    """
    names, classes = [place.name for place in config.places], len(config.id2label or {})
    if config.kind not in KINDS:
        raise InputError(f"the cascade is of kind {config.kind!r}; expected one of {', '.join(KINDS)}.")
    if len(set(names)) != len(names):
        raise InputError(f"the cascade's members are {', '.join(names)}: one name stands there twice.")
    for plan in config.plans:
        _check_members(plan.members, names)
    if sorted(config.id2label or {}) != list(range(classes)):
        raise InputError(f"the cascade's id2label is not numbered 0, 1, 2, ...: {config.id2label}. Build it again.")
    if config.max_length is not None and not (type(config.max_length) is int and config.max_length > 0):
        raise InputError(
            f"the cascade cuts texts after {config.max_length!r} tokens; expected 1 or more. Build it again."
        )
    for place in config.places:
        if place.label_order and len(place.label_order) != classes:
            raise InputError(
                f"member {place.name!r} gives {len(place.label_order)} labels, the cascade has {classes}. "
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
