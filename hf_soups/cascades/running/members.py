"""Members of a cascade: ordinary classifiers, loaded from its folder or from a pinned commit."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hf_soups.cascades.running.config import CascadeConfig
from hf_soups.cascades.running.stored import Place
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, HfSoupsError, InputError, MemberError
from hf_soups.files.downloads import download
from hf_soups.files.endpoint import HOSTS_VARIABLE, named_hosts
from hf_soups.models.classifier import Classifier
from hf_soups.models.endpoint import endpoint_classifier
from hf_soups.models.loading import config_of
from hf_soups.models.pixels import resized_processor
from hf_soups.models.readers import ImageReader
from hf_soups.models.registry import family_for
from hf_soups.models.vision import answers_at


def load_members(
    config: CascadeConfig,
    source: str,
    *,
    dtypes: Mapping[str, torch.dtype] | None = None,
    devices: Mapping[str, torch.device] | None = None,
    attention: str | None = None,
    hub: Mapping[str, Any] | None = None,
    only: str | None = None,
) -> tuple[Classifier, ...]:
    """Every member, in the order of the config.

    Args:
        config: says where they lie, and in which dtype each answers.
        source: folder or Hub repo of the cascade.
        dtypes: of members by name, instead of their own.
        devices: of members by name, instead of their own; default: the CPU.
        attention: how attention is computed; default: the member's own choice.
        hub: how to reach the Hub: `revision` of the cascade, `token`, `cache_dir`, ...
        only: the name of one member, which alone is loaded.
    Raises:
        MemberError: naming the member that cannot be loaded.
    """
    loaded: dict[Any, Classifier] = {}
    members = []
    for place in config.places:
        if only is not None and place.name != only:
            continue
        if place.endpoint is not None:
            with _member_named(place):
                alone = only is not None  # then nobody before it has answered
                members.append(_endpoint(place, config, source, lenient=place.fallback == "last" and not alone))
            continue
        own = (dtypes or {}).get(place.name) or getattr(torch, place.dtype)
        device = (devices or {}).get(place.name) or own_device(place)
        key = (place.weights, own, device)
        with _member_named(place):
            if key not in loaded:
                checkpoint = member_checkpoint(place, source, dict(hub or {}))
                check_weights(place, checkpoint.folder)
                _check_backend(place, checkpoint)
                loaded[key] = _loaded(checkpoint, config.kind, own, attention, device)
            members.append(_fitted(loaded[key], place, config))
    return tuple(members)


def _endpoint(place: Place, config: CascadeConfig, source: str, *, lenient: bool) -> Classifier:
    """A member that is asked over HTTP; nothing is sent yet.

    Raises:
        MemberError: if the cascade is somebody else's, from the Hub, and the user has not named the host.
    """
    assert place.endpoint is not None
    if not Path(source).is_dir() and place.endpoint.host.lower() not in named_hosts():
        raise MemberError(
            f"rows that reach it are sent to {place.endpoint.host}, where {source} says. If you trust it with them, "
            f"and with your token, name the host: {HOSTS_VARIABLE}={place.endpoint.host}."
        )
    return endpoint_classifier(place.endpoint, config.label_names, str(config.kind), lenient=lenient)


def check_weights(place: Place, folder: Path) -> None:
    """The weights of a member must be those that the cascade was built of: its thresholds and scores are theirs.

    Raises:
        MemberError: if they are not. Cascades of 0.1.0, and references to repos at a commit, keep no digest.
    """
    if place.sha256 and Checkpoint(str(folder)).sha256() != place.sha256:
        raise MemberError(
            f"{folder}: its weights are not those that the cascade was built of, so the thresholds and scores are not "
            "theirs. Build it again."
        )


def load_one(config: CascadeConfig, folder: Path) -> Classifier:
    """The member of a cascade of one that is nowhere on disk: a classifier in a folder that the user names.

    Raises:
        MemberError: if it cannot be loaded.
    """
    (place,) = config.places
    with _member_named(place):
        return _fitted(_loaded(Checkpoint(folder), config.kind, torch.float32), place, config)


def member_checkpoint(place: Place, source: str, hub: dict[str, Any]) -> Checkpoint:
    """The files of a member of a cascade in a folder or repo; `hub` says how that is reached.

    Raises:
        MemberError, CheckpointError: if it is not there.
    """
    revision = hub.pop("revision", None)
    if place.endpoint is not None:
        raise MemberError(f"member {place.name!r} is asked at {place.endpoint.url}: it has no files here.")
    if place.repo is not None:
        there = download(place.repo, place.revision, place.subfolder, **hub)
        return Checkpoint(there, subfolder=place.subfolder)
    here = Path(source) if Path(source).is_dir() else download(source, revision, place.subfolder, **hub)
    if not (here / str(place.subfolder) / "config.json").is_file():
        raise MemberError(f"{source} has no folder {place.subfolder!r} with a config.json. Get the cascade again.")
    return Checkpoint(here, subfolder=place.subfolder)


def own_device(place: Place) -> torch.device | None:
    """Where a member is to run by the cascade's config; the CPU, with a warning, where this machine has no such device.

    None: the config leaves it open.
    """
    if not place.device:
        return None
    device = torch.device(place.device)
    if device.type != "cpu" and not _is_here(device):
        warnings.warn(
            f"member {place.name!r} of the cascade is to run on {place.device}, which is not here; it runs on the CPU",
            stacklevel=2,
        )
        return torch.device("cpu")
    return device


def _is_here(device: torch.device) -> bool:
    module = torch.get_device_module(device)
    return bool(module.is_available()) and (device.index or 0) < module.device_count()


def _check_backend(place: Place, checkpoint: Checkpoint) -> None:
    if checkpoint.is_onnx != (place.backend == "onnx"):
        kind = "an ONNX export" if checkpoint.is_onnx else "a PyTorch checkpoint"
        raise MemberError(
            f"config.json says that {place.backend} runs it, but the folder holds {kind}. Build the cascade again."
        )


def for_members(given: Any, names: Sequence[str], what: str) -> dict[str, Any]:
    """What is given for each member by name: one value for all, or values by name, "" being that of the others.

    Raises:
        InputError: if it names no member.

    >>> for_members("cpu", ("small", "big"), "device_map")
    {'small': 'cpu', 'big': 'cpu'}
    >>> for_members({"big": "cuda:0", "": "cpu"}, ("small", "big"), "device_map")
    {'small': 'cpu', 'big': 'cuda:0'}
    """
    if not isinstance(given, Mapping):
        return {} if given is None else dict.fromkeys(names, given)
    unknown = sorted(str(name) for name in given if name and name not in names)
    if unknown:
        raise InputError(
            f"{what} names {', '.join(unknown)}, but the members of the cascade are {', '.join(names)} ('' stands for "
            "all others)."
        )
    others = {name: given[""] for name in names if "" in given}
    return {**others, **{name: given[name] for name in names if name in given}}


def _loaded(
    checkpoint: Checkpoint,
    kind: str,
    dtype: torch.dtype,
    attention: str | None = None,
    device: torch.device | None = None,
) -> Classifier:
    family = family_for(config_of(checkpoint.folder), kind, checkpoint.folder)
    return Classifier.load(checkpoint, family, kind, dtype=dtype, attention=attention, device=device)


def _fitted(member: Classifier, place: Place, config: CascadeConfig) -> Classifier:
    """The member with the cascade's labels, set to the input size, or cut to the length, that the cascade wants."""
    labels, wanted = member.model.config.num_labels, config.num_labels or 0
    if max(place.label_order, default=-1) >= labels or (not place.label_order and labels != wanted):
        raise MemberError(f"it gives {labels} labels, the cascade has {wanted}. Build the cascade again.")
    member = replace(member, order=place.label_order)
    if config.kind != "image":
        return member.cut_at(config.max_length)
    reader = ImageReader(resized_processor(member.processor, place.image_size))
    return replace(member, reader=reader, resizes=_resizes(member.model, place))


def _resizes(model: Any, place: Place) -> bool:
    if place.image_size is None or answers_at(model, place.image_size):
        return False
    return "interpolate_pos_encoding" in inspect.signature(model.forward).parameters


@contextmanager
def of_member(place: Place) -> Iterator[None]:
    """Name the member in what goes wrong while an endpoint is asked.

    Raises:
        MemberError: instead of what the block raises.
    """
    try:
        yield
    except CheckpointError as error:
        if place.endpoint is None:
            raise
        refused = MemberError(f"member {place.name!r} of the cascade: {error}")
        refused.exit_status = error.exit_status
        raise refused from error


@contextmanager
def _member_named(place: Place) -> Iterator[None]:
    try:
        yield
    except HfSoupsError as error:
        refused = MemberError(f"member {place.name!r} of the cascade ({place}) cannot be used: {error}")
        refused.exit_status = error.exit_status  # 1 where the Hub failed
        raise refused from error
