"""Building a cascade's folder: config, members and what an endpoint needs, whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hf_soups.cascades.plan import Plan, plan_values
from hf_soups.cascades.running.beside import write_beside
from hf_soups.cascades.running.config import CascadeConfig
from hf_soups.cascades.running.members import for_members
from hf_soups.cascades.running.stored import COMMIT, HANDLER_FILE, KINDS, REMOTE, Place, code_map, place_values
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError, InputError, MemberError
from hf_soups.files.endpoint import Fallback, read_endpoint
from hf_soups.files.onnx import FILES as ONNX_FILES
from hf_soups.files.onnx import NEEDED as ONNX_NEEDED
from hf_soups.files.problem_types import CLASSIFICATION, IN_CONFIG, InConfig, check_problem_type
from hf_soups.files.weights import INDEX
from hf_soups.files.writing import written_whole
from hf_soups.models.clip import write_zero_shot
from hf_soups.models.loading import unwrapped
from hf_soups.models.registry import family_for
from hf_soups.pool.label_order import match_labels
from hf_soups.pool.store import Member
from hf_soups.soups.soup import versions
from hf_soups.soups.soup_record import SOUP_FILE

MARKER = HANDLER_FILE  # only a folder that holds one is ever replaced
ARCHITECTURES = {"image": "CascadeForImageClassification"}
STOCK = ("vision", "encoder")  # families that modeling_cascade.py knows how to ask
NEEDED = ("hf_soups", "transformers")  # by an endpoint; torch is there


@dataclass(frozen=True)
class _Placed:
    place: Place
    checkpoint: Checkpoint
    templates: tuple[str, ...] = ()  # of a zero-shot model: it is stored as the classifier that they make of it


def build_cascade(
    plan: Plan,
    members: Mapping[str, Member],
    out: str | Path,
    *,
    kind: str,
    label_names: Sequence[str],
    frontier: Sequence[Plan] = (),
    max_length: int | None = None,
    references: bool = False,
    assume_label_order: bool = False,
    overwrite: bool = False,
    with_code: bool = False,
    beside: Mapping[str, bytes] | None = None,
    devices: str | Mapping[str, str] | None = None,
    fallback: Fallback = "error",
) -> Path:
    """Write a cascade that `from_pretrained` and the cascade pipelines load.

    The folder holds config.json, for images preprocessor_config.json (so that the stock pipeline takes it too), a
    folder for each member with its weights and processor (once for members that share both), handler.py and
    requirements.txt for inference endpoints. Members are copied as they are; where one knows the labels in another
    order, or more of them, the config says which of its logits stand for the cascade's labels. A
    zero-shot CLIP becomes an ordinary image classifier for these labels.

    Args:
        plan: members, thresholds, rule and costs.
        members: where the plan's members lie, by name; others are not looked at.
        out: the folder to make.
        kind: what a row is: "image", "text" or "text-pair".
        label_names: of the data that the plan was chosen on, in their order.
        frontier: plans that `budget` can choose at run time; those with other members or another unit are left out.
        max_length: tokens after which texts are cut, as when the predictions were made.
        references: keep Hub ids with the commit of each member instead of copies.
        assume_label_order: take members without label names to have the data's order, if they have as many.
        overwrite: replace a cascade that is there.
        with_code: add modeling_cascade.py, so that people without hf_soups load it by `trust_remote_code=True`.
        beside: further files of the folder, such as the evidence for its card: name and content.
        devices: where members run, by name, such as {"small": "cpu", "big": "cuda:1"}; on a machine without such a
            device they run on the CPU. Default: where the cascade is asked to run.
        fallback: of rows that an endpoint among the members does not answer: "error", or "last", which keeps the answer
            of the members before it and marks the row.
    Returns:
        `out`.
    Raises:
        InputError: if the plan and the members do not fit together, or `out` exists.
        MemberError: naming the member that cannot be used.
        HfSoupsError: if the place cannot be written.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    missing = [name for name in plan.members if name not in members]
    if missing:
        raise InputError(f"no member {', '.join(missing)}; there are: {', '.join(members)}.")
    placed: list[_Placed] = []
    for name in plan.members:
        with _member_of(name):
            check_problem_type(members[name].checkpoint.config, plan.rule.problem_type, name)
            if with_code:
                _check_stock(members[name], kind)
            placed.append(_placed(members[name], placed, members, kind, label_names, references, assume_label_order))
    placed = [replace(p, place=place) for p, place in zip(placed, _on_devices(placed, devices), strict=True)]
    placed = _falling_back(placed, fallback, plan)
    config = CascadeConfig(
        kind=kind,
        members=[place_values(p.place) for p in placed],
        plan=plan_values(plan),
        frontier=[plan_values(p) for p in dict.fromkeys(frontier) if plan.can_follow(p)],
        max_length=max_length,
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
        problem_type=_problem_type(plan, label_names),
        architectures=[ARCHITECTURES.get(kind, "CascadeForSequenceClassification")],
    )
    if with_code:
        config.auto_map = code_map(kind)
    target = Path(out)
    with written_whole(target, overwrite=overwrite, marker=MARKER) as partial:
        _write(partial, config, placed)
        for name, content in (beside or {}).items():
            (partial / name).write_bytes(content)
    return target


def _falling_back(placed: Sequence[_Placed], fallback: Fallback, plan: Plan) -> list[_Placed]:
    remote = [p.place.name for p in placed if p.place.endpoint is not None]
    if fallback == "error":
        return list(placed)
    if not remote:
        raise InputError("--fallback last is for endpoints, and no member of the plan is one. Leave it out.")
    if plan.members[0] in remote:
        raise InputError(
            f"--fallback last: {plan.members[0]!r}, the first member, is an endpoint, so no member before it has "
            "answered. Choose a plan that begins with a model on this machine."
        )
    return [replace(p, place=replace(p.place, fallback=fallback)) if p.place.name in remote else p for p in placed]


def _on_devices(placed: Sequence[_Placed], devices: str | Mapping[str, str] | None) -> list[Place]:
    own = for_members(devices, [p.place.name for p in placed], "devices")
    return [replace(p.place, device=own.get(p.place.name, "")) for p in placed]


def _problem_type(plan: Plan, label_names: Sequence[str]) -> InConfig | None:
    of_type = plan.rule.problem_type
    return IN_CONFIG[of_type] if of_type != CLASSIFICATION or len(label_names) > 1 else None


@contextmanager
def _member_of(name: str) -> Iterator[None]:
    try:
        yield
    except HfSoupsError as error:
        raise MemberError(f"member {name!r} cannot be part of the cascade: {error}") from error


def _placed(
    member: Member,
    before: Sequence[_Placed],
    members: Mapping[str, Member],
    kind: str,
    label_names: Sequence[str],
    references: bool,
    assume_order: bool,
) -> _Placed:
    """Where a member is to lie, after everything about it that can be checked without loading it was."""
    checkpoint = member.checkpoint
    if checkpoint.config.get("model_type") == CascadeConfig.model_type:
        raise InputError("it is a cascade itself. Search one cascade over all members instead.")
    if member.templates and references:
        raise InputError(
            "it is a zero-shot model: the classifier made of its texts is in no repo yet, so it cannot be referred to. "
            "Build without references, which stores it in the cascade."
        )
    if checkpoint.is_endpoint:
        endpoint = read_endpoint(checkpoint.folder)
        if not endpoint.takes(kind):
            raise InputError(f"an endpoint for {endpoint.task}, but the rows are of kind {kind!r}.")
        return _Placed(Place(member.name, backend=REMOTE, endpoint=endpoint), checkpoint)
    family_for(checkpoint.config, kind, checkpoint)
    if not checkpoint.weight_files or not checkpoint.processor_files():
        raise InputError(f"{checkpoint} holds no tokenizer or image processor. Save it beside the weights.")
    order = () if member.templates else _label_order(checkpoint, label_names, assume_order)
    place = Place(
        member.name, subfolder=f"member_{len(before)}", image_size=member.image_size, dtype=member.dtype,
        label_order=order, backend="onnx" if checkpoint.is_onnx else "torch",
    )  # fmt: skip
    if references:
        return _Placed(_pinned(place, checkpoint), checkpoint)
    same = next((p for p in before if p.place.is_inside and _share(members[p.place.name], member)), None)
    shared = place if same is None else replace(place, subfolder=same.place.subfolder)
    return _Placed(shared, checkpoint, member.templates)


def _check_stock(member: Member, kind: str) -> None:
    """Refuse a member that transformers alone does not load and ask as hf_soups does."""
    checkpoint = member.checkpoint
    if checkpoint.is_endpoint:
        raise InputError("an endpoint is asked by hf_soups alone. Build without code.")
    family = family_for(checkpoint.config, kind, checkpoint)
    own = family.auto()._model_mapping._model_mapping if family.name in STOCK else ()
    if (
        checkpoint.is_onnx
        or member.templates
        or checkpoint.config.get("model_type") not in own
        or unwrapped(checkpoint)
    ):
        raise InputError(
            f"{checkpoint}: transformers alone does not load and ask this model ({family.name}) as hf_soups does, so "
            "the code for people without hf_soups would answer something else. Build without code."
        )


def _label_order(checkpoint: Checkpoint, wanted: Sequence[str], assume_order: bool) -> tuple[int, ...]:
    names = checkpoint.label_names
    # without id2label transformers takes two classes
    classes = len(names or checkpoint.config.get("id2label") or range(2))
    match = match_labels(names, wanted, classes=classes, who=str(checkpoint), assume_order=assume_order)
    return () if match.is_identity else match.order


def _pinned(place: Place, checkpoint: Checkpoint) -> Place:
    if Path(checkpoint.source).expanduser().is_dir():
        raise InputError(
            f"{checkpoint.source} is a folder on this machine, so others cannot load it by reference. Push it to the "
            "Hub and predict with its id, or copy the members into the cascade (without references)."
        )
    parts = checkpoint.folder.parts  # .../snapshots/<commit>/...: what a branch's name stood for
    at = [part for before, part in itertools.pairwise(parts) if before == "snapshots"]
    commit = next((c for c in (checkpoint.revision or "", *at) if COMMIT.fullmatch(c)), None)
    if commit is None:
        raise InputError(f"the commit of {checkpoint} cannot be told. Name it as the revision.")
    return replace(place, repo=checkpoint.source, revision=commit, subfolder=checkpoint.subfolder)


def _share(one: Member, other: Member) -> bool:
    """Whether one folder serves both: the same weights with the same config and processor, asked the same texts."""
    mine, theirs = one.checkpoint, other.checkpoint
    if one.templates != other.templates:
        return False
    if mine.folder.resolve() == theirs.folder.resolve():
        return True
    if not one.sha256 or one.sha256 != other.sha256:
        return False
    return _digests(mine) == _digests(theirs)


def _digests(checkpoint: Checkpoint) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoint.carried_files()}


def _write(folder: Path, config: CascadeConfig, placed: Sequence[_Placed]) -> None:
    own = {p.place.subfolder: p for p in placed if p.place.is_inside}
    for subfolder, member in own.items():
        into = folder / str(subfolder)
        if not member.templates:
            _copy(member.checkpoint, into)
            continue
        with _member_of(member.place.name):
            write_zero_shot(member.checkpoint.folder, config.label_names, member.templates, into)
    stored = {subfolder: Checkpoint(str(folder), subfolder=subfolder).sha256() for subfolder in own}
    places = (replace(p, sha256=stored[p.subfolder] if p.is_inside else "") for p in config.places)
    config.members = [place_values(place) for place in places]
    config.save_pretrained(folder)
    shutil.copyfile(Path(__file__).with_name(HANDLER_FILE), folder / MARKER)
    write_beside(folder, config.kind, code=hasattr(config, "auto_map"))
    write_requirements(folder, onnx=any(member.checkpoint.is_onnx for member in placed))


def write_requirements(folder: Path, *, onnx: bool) -> None:
    """Write what an inference endpoint installs; with `onnx` also what ONNX members need."""
    installed = versions()
    named = [f"{name}>={installed[name]}" for name in NEEDED if name in installed]
    named += [f"{name}>={importlib.metadata.version(name)}" for name in ONNX_NEEDED] if onnx else []
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in named))


def _copy(checkpoint: Checkpoint, into: Path) -> None:
    """Weights, config, processor and the record of a soup; files only, since the Hub takes one level of folders.

    Copies, not hard links: whoever saves into the member's own folder later would change the cascade's weights too.
    """
    into.mkdir()
    about = [SOUP_FILE, *ONNX_FILES] if checkpoint.is_onnx else [SOUP_FILE, INDEX]
    beside = [checkpoint.folder / name for name in about]
    files = dict.fromkeys([*checkpoint.carried_files(), *checkpoint.weight_files, *beside])
    for file in files:
        if file.is_file() and file.parent.name != "additional_chat_templates":
            shutil.copyfile(file, into / file.name)
