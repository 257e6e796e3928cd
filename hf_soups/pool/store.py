"""A pool's folder: pool.json, which says what was answered by whom, and one file of predictions for each member."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.costs import UNITS, Cost
from hf_soups.display import Displayed
from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.downloads import inside_of
from hf_soups.files.label_names import same_labels
from hf_soups.files.problem_types import CLASSIFICATION, ProblemType
from hf_soups.files.reading import as_record, read_json
from hf_soups.files.writing import write_json
from hf_soups.predictions import Predictions, same_rows
from hf_soups.predictions.topk import load_predictions

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ("seconds", "seconds_batch_1")  # these carry the hardware; the other units are counted


@dataclass(frozen=True, slots=True)
class Member:
    """A model in a pool, at one input size and in one precision; or answers made elsewhere, without a model.

    Costs are of one example: counted ones are the same everywhere, seconds belong to `hardware`. What was not counted
    or measured is None. How well it answers is not kept here: that follows from its predictions.
    """

    name: str
    source: str = ""  # a folder's absolute path, or a Hub repo; empty: its answers come from a file, see `from_file`
    revision: str | None = None
    subfolder: str | None = None
    image_size: int | None = None  # pixels; None: the checkpoint's own
    dtype: str = "float32"  # that the model answered in
    templates: tuple[str, ...] = ()  # of a zero-shot model's prompts
    sha256: str = ""  # of its weight files
    parameters: int | None = None
    macs: int | None = None  # multiply-adds
    bytes: int | None = None  # of its weights and of the most activations alive at once, at batch 1
    seconds: float | None = None  # at `best_batch`
    seconds_batch_1: float | None = None
    best_batch: int | None = None  # the batch size with the fewest seconds per example
    hardware: str = ""  # that the seconds were measured on
    file: str = ""  # of its predictions, inside the pool's folder
    files: str = ""  # digest of its config, tokenizer and processor, see `Checkpoint.files_digest`
    notes: tuple[str, ...] = ()  # what a reader of its predictions should know
    from_file: str = ""  # name of the file that its answers were read from, where no model is known
    costs: Mapping[str, float] = field(default_factory=dict)  # in units of the user's own, such as dollars

    @property
    def has_model(self) -> bool:
        """Whether there are weights; else its answers come from a file."""
        return bool(self.source)

    @property
    def checkpoint(self) -> Checkpoint:
        """Its weights.

        Raises:
            InputError: if its answers were made elsewhere.
        """
        if not self.has_model:
            raise InputError(
                f"{self.name}: its answers come from the file {self.from_file}; no model of it is known here."
            )
        return Checkpoint(self.source, revision=self.revision, subfolder=self.subfolder)

    @property
    def units(self) -> tuple[str, ...]:
        """The units that its cost is known in."""
        return (*(unit for unit in UNITS if getattr(self, unit) is not None), *self.costs)

    def cost(self, unit: str) -> Cost:
        """What one example costs.

        Raises:
            InputError: if the unit is unknown, or was not measured for this member.

        >>> Member("small", "models/small", macs=5).cost("macs")
        Cost(value=5.0, unit='macs', hardware='')
        """
        if unit not in self.units:
            raise InputError(self._unknown(unit))
        value = self.costs[unit] if unit in self.costs else getattr(self, unit)
        return Cost(float(value), unit, self.hardware if unit in MEASURED else "")

    def with_cost(self, value: float, unit: str, hardware: str = "") -> Member:
        """The member with what one example costs, counted, measured or billed elsewhere.

        Raises:
            InputError: if the unit is no word, the value no finite number of 0 or more, or seconds lack hardware.
        """
        cost = Cost(value, unit, hardware)
        if not re.fullmatch(r"[^\W\d][\w./-]{0,39}", unit):
            raise InputError(f"{unit!r} is no unit of costs; expected {', '.join(UNITS)}, or a word such as dollars.")
        if unit in MEASURED:
            if not hardware:
                raise InputError(f"{unit} belong to the hardware they were measured on: name it (--hardware).")
            measured: Any = {unit: cost.value, "hardware": hardware}  # the field is called as the unit
            return replace(self, **measured)
        if unit in UNITS:
            counted: Any = {unit: round(cost.value)}
            return replace(self, **counted)
        return replace(self, costs={**self.costs, unit: cost.value})

    def _unknown(self, unit: str) -> str:
        """Why there is no cost in a unit, and what to do."""
        known = f" It is known in: {', '.join(self.units)}." if self.units else ""
        give = f"Give it (hf-soups pool cost POOL {self.name} --cost NUMBER --unit {unit})"
        if unit not in UNITS:
            what = f"{unit!r} is no unit of costs; expected one of {', '.join(UNITS)}" if not self.costs else ""
            return f"{what or f'{self.name}: its cost in {unit} is not known'}. {give}, or choose another.{known}"
        advice = "Predict again with --measure-seconds" if unit in MEASURED else "Predict again"
        way = advice if self.has_model else give
        return f"{self.name}: its {UNITS[unit]} were not measured. {way}, or choose another cost.{known}"

    def to_json(self) -> dict[str, Any]:
        """What pool.json holds of it; the name is the key there."""
        values = {key: value for key, value in asdict(self).items() if value not in (None, "", (), {})}
        del values["name"]
        return values


POOL_FILE = "pool.json"
FORMAT = "hf_soups.pool.v1"
AGAIN = "Predict again into another folder."


@dataclass(frozen=True, slots=True)
class PoolData:
    """Which rows a pool's members answered."""

    path: str  # as the user named it
    split: str
    config: str | None = None
    revision: str | None = None
    rows: int = 0
    fingerprint: str = ""  # of their content, see `Split`
    columns: tuple[str, ...] = ()  # that the models read
    label: str | None = None  # column, or several with commas between them; None: rows without labels
    problem_type: ProblemType = CLASSIFICATION
    max_length: int | None = None  # tokens after which texts were cut


@dataclass(frozen=True, slots=True)
class _PoolRecord:
    kind: str
    data: PoolData
    label_names: tuple[str, ...]
    members: dict[str, Member]
    top_k: int | None = None


@dataclass(frozen=True, repr=False)
class Pool(Displayed):
    """Many models' answers on the rows of one split. Predictions are mapped from their files when they are asked for.

    All members know the same classes in the order of `label_names`, whatever the order in their own heads.
    """

    folder: Path
    kind: str  # of task: text, text-pair or image
    data: PoolData
    label_names: tuple[str, ...]
    members: Mapping[str, Member] = field(default_factory=dict)
    top_k: int | None = None  # classes kept of each row; None: all

    def __len__(self) -> int:
        return len(self.members)

    def in_short(self) -> str:
        """How many models answered how many rows of which split."""
        about = self.data
        return f"{len(self)} models on {about.rows} {about.split} rows of {about.path}; in {self.folder}"

    def to_pandas(self) -> pd.DataFrame:
        """The members, a row each, with what an example costs them."""
        import pandas as pd

        units = {unit: None for member in self.members.values() for unit in member.units}
        rows = [
            {"member": name, "source": m.source or m.from_file} | {u: m.cost(u).value for u in units if u in m.units}
            for name, m in self.members.items()
        ]
        return pd.DataFrame(rows, columns=["member", "source", *units])

    @property
    def predictions(self) -> Mapping[str, Predictions]:
        """The members' predictions by name, each read when it is looked up."""
        return _Lazy(self)

    def costs(self, unit: str = "macs", names: Sequence[str] = ()) -> dict[str, Cost]:
        """What an example costs each member, or those that are named.

        Raises:
            InputError: if the unit is unknown or a member was not measured in it.
        """
        return {name: self.member(name).cost(unit) for name in names or self.members}

    def unit(self, wanted: str | None = None, names: Sequence[str] = ()) -> str:
        """The unit of costs that is wanted; else MACs, or where not all members have them the first that all share.

        Args:
            wanted: None: none in particular.
            names: of members; default: all.
        Raises:
            InputError: if no unit is known of all.
        """
        if wanted is not None:
            return wanted
        shared = self.shared_units(names)
        if not shared:
            said = "; ".join(f"{n}: {', '.join(self.member(n).units) or 'none'}" for n in names or self.members)
            raise InputError(
                f"{self.folder}: no cost is known of all members in one unit ({said}). Give those that lack it: "
                "hf-soups pool cost POOL NAME --cost NUMBER --unit UNIT."
            )
        return "macs" if "macs" in shared else shared[0]

    def shared_units(self, names: Sequence[str] = ()) -> tuple[str, ...]:
        """The units of costs that are known of all members, or of those that are named."""
        members = [self.member(name) for name in names or self.members]
        return tuple(unit for unit in members[0].units if all(unit in m.units for m in members)) if members else ()

    def member(self, name: str) -> Member:
        """The member of that name.

        Raises:
            InputError: if there is none.
        """
        if name not in self.members:
            raise InputError(f"{self.folder}: no member {name!r}; there are: {', '.join(self.members)}.")
        return self.members[name]

    def checkpoint(self, name: str) -> Checkpoint:
        """A member's weights. Whether they are still those that answered tells `Checkpoint.sha256`."""
        return self.member(name).checkpoint

    def with_member(self, member: Member) -> Pool:
        """The pool with one more member, or with another of that name."""
        return replace(self, members={**self.members, member.name: member})


class _Lazy(Mapping[str, Predictions]):
    """Predictions by name, mapped on first use."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._read: dict[str, Predictions] = {}

    def __getitem__(self, name: str) -> Predictions:
        if name not in self._pool.members:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = _checked(self._pool, name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pool.members)

    def __len__(self) -> int:
        return len(self._pool.members)


def _checked(pool: Pool, name: str) -> Predictions:
    path = inside_of(pool.folder, pool.members[name].file)
    answers = load_predictions(path)
    if (
        not same_rows(answers.data, pool.data.fingerprint)
        or len(answers) != pool.data.rows
        or not same_labels(answers.label_names, pool.label_names)
    ):
        raise PredictionsError(
            f"{path}: holds {len(answers)} rows of data {answers.data}, but the pool is of {pool.data.rows} rows of "
            f"{pool.data.fingerprint}, or its labels are others. Delete the file and predict again."
        )
    return answers


def read_pool(folder: str | Path) -> Pool:
    """The pool in a folder that `hf-soups predict` wrote.

    Raises:
        InputError: if there is no pool, or pool.json cannot be read or names a file outside the folder.
    """
    at = Path(folder)
    path = at / POOL_FILE
    try:
        read = read_json(path, what="a pool of predictions", format=FORMAT, again=AGAIN)
    except FileNotFoundError:
        if not at.exists():
            raise InputError(f"{at}: no such folder. Name a pool's, or make one with hf-soups predict.") from None
        raise InputError(f"{at}: no {POOL_FILE} here, so this is no pool. Make one with hf-soups predict.") from None
    entries = read.get("members")
    if isinstance(entries, dict):  # the name of a member is its key there
        named = {n: {**entry, "name": n} if isinstance(entry, dict) else entry for n, entry in entries.items()}
        read = {**read, "members": named}
    record = as_record(read, _PoolRecord, path, what="a pool of predictions", again=AGAIN)
    members = {name: replace(m, source=_found(at, m.source)) for name, m in record.members.items()}
    for name, member in members.items():
        if not member.source and not member.from_file:
            raise InputError(f"{path}: {name} has neither a source nor a file that its answers are from. {AGAIN}")
        if Path(member.file).name != member.file or not member.file:
            raise InputError(
                f"{path}: the predictions of {name} are said to lie in {member.file!r}, not in the pool's folder. "
                f"{AGAIN}"
            )
    return Pool(at, record.kind, record.data, record.label_names, members, record.top_k)


def write_pool(pool: Pool) -> None:
    """Write pool.json through a temporary file and a rename."""
    data = {key: value for key, value in asdict(pool.data).items() if value is not None}
    if pool.data.problem_type == CLASSIFICATION:  # what it is without saying so
        del data["problem_type"]
    values = {
        "format": FORMAT,
        "kind": pool.kind,
        "data": data,
        "label_names": pool.label_names,
        **({} if pool.top_k is None else {"top_k": pool.top_k}),
        "members": {
            name: {**member.to_json(), "source": _written(pool.folder, member.source)}
            for name, member in pool.members.items()
        },
    }
    write_json(pool.folder / POOL_FILE, values)


def file_of(name: str) -> str:
    """The name of the file for a member's predictions.

    >>> file_of("org/model@160")
    'org--model@160.safetensors'
    """
    return re.sub(r"[^\w.@+-]", "--", name).lstrip(".") + ".safetensors"


def free_file(pool: Pool, name: str) -> str:
    """The file for a member, which no other member has."""
    taken = {member.file for other, member in pool.members.items() if other != name}
    file = file_of(name)
    while file in taken:
        file = f"_{file}"
    return file


def _written(folder: Path, source: str) -> str:
    """A local folder relative to the pool's, so that both can move together; a Hub repo as it is."""
    if not Path(source).is_absolute():
        return source
    relative = os.path.relpath(source, folder.resolve())
    return relative if relative.startswith(".") else f"./{relative}"


def _found(folder: Path, written: str) -> str:
    """The source as `Member` names it; Hub repos never start with a dot."""
    if not written.startswith("."):
        return written
    return os.path.normpath(folder.resolve() / written)
