"""Loading the members of a cascade: each an ordinary checkpoint, from the cascade's folder or from a pinned commit."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from hf_soups.cascades.running.config import CascadeConfig, Place
from hf_soups.cascades.running.readers import ImageReader, Reader, text_reader
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError, MemberError
from hf_soups.families import Family, family_for
from hf_soups.families.encoder import longest_row
from hf_soups.families.family import Batch
from hf_soups.families.images import resized_processor
from hf_soups.families.loading import config_of
from hf_soups.families.vision import answers_at
from hf_soups.weights.hub import download


@dataclass(frozen=True, eq=False)
class LoadedMember:
    """One member ready to answer; two members of one model at two input sizes share `model`."""

    family: Family
    model: Any
    processor: Any  # as stored, not set to `image_size`
    reader: Reader
    resizes: bool = False  # its position embeddings are fitted to the images while it runs

    def logits(self, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """Logits in float32, in the member's own order of labels."""
        if not self.resizes:
            return self.family.logits(self.model, batch)
        logits: torch.Tensor = self.model(**batch, interpolate_pos_encoding=True).logits
        return logits.float()


def load_members(
    config: CascadeConfig,
    source: str,
    *,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    hub: Mapping[str, Any] | None = None,
) -> tuple[LoadedMember, ...]:
    """Every member, in the order of the config.

    Args:
        config: says where they lie, and in which dtype each answers.
        source: folder or Hub repo of the cascade.
        dtype: of all members instead of their own.
        attention: how attention is computed; default: the member's own choice.
        hub: how to reach the Hub: `revision` of the cascade, `token`, `cache_dir`, ...
    Raises:
        MemberError: naming the member that cannot be loaded.
    """
    loaded: dict[Any, LoadedMember] = {}
    members = []
    for place in config.places:
        own = getattr(torch, place.dtype) if dtype is None else dtype
        key = (place.weights, own)
        with _member_named(place):
            if key not in loaded:
                folder = _folder(place, source, dict(hub or {}))
                check_weights(place, folder)
                loaded[key] = _load(folder, config.kind, own, attention)
            members.append(_fitted(loaded[key], place, config))
    return tuple(members)


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


def load_one(config: CascadeConfig, folder: Path) -> LoadedMember:
    """The member of a cascade of one that is nowhere on disk: a classifier in a folder that the user names.

    Raises:
        MemberError: if it cannot be loaded.
    """
    (place,) = config.places
    with _member_named(place):
        return _fitted(_load(folder, config.kind, torch.float32, None), place, config)


def _folder(place: Place, source: str, hub: dict[str, Any]) -> Path:
    revision = hub.pop("revision", None)
    if place.repo is not None:
        there = download(place.repo, place.revision, place.subfolder, **hub)
        return Checkpoint(there, subfolder=place.subfolder).folder
    here = Path(source) if Path(source).is_dir() else download(source, revision, place.subfolder, **hub)
    if not (here / str(place.subfolder) / "config.json").is_file():
        raise MemberError(f"{source} has no folder {place.subfolder!r} with a config.json. Get the cascade again.")
    return Checkpoint(here, subfolder=place.subfolder).folder


def _load(folder: Path, kind: str, dtype: torch.dtype, attention: str | None) -> LoadedMember:
    family = family_for(config_of(folder), kind, folder)
    model = family.load(folder, dtype=dtype, attention=attention)
    processor = family.processor(folder)
    reader = ImageReader(processor) if kind == "image" else text_reader(processor)
    return LoadedMember(family, model, processor, reader)


def _fitted(member: LoadedMember, place: Place, config: CascadeConfig) -> LoadedMember:
    """The member set to the input size, or cut to the length, that the cascade wants."""
    labels, wanted = member.model.config.num_labels, config.num_labels or 0
    if max(place.label_order, default=-1) >= labels or (not place.label_order and labels != wanted):
        raise MemberError(f"it gives {labels} labels, the cascade has {wanted}. Build the cascade again.")
    if config.kind != "image":
        limits = [n for n in (config.max_length, longest_row(member.model)) if n is not None]
        reader: Reader = text_reader(member.processor, min(limits, default=None))
        return LoadedMember(member.family, member.model, member.processor, reader)
    reader = ImageReader(resized_processor(member.processor, place.image_size))
    return LoadedMember(member.family, member.model, member.processor, reader, _resizes(member.model, place))


def _resizes(model: Any, place: Place) -> bool:
    if place.image_size is None or answers_at(model, place.image_size):
        return False
    return "interpolate_pos_encoding" in inspect.signature(model.forward).parameters


@contextmanager
def _member_named(place: Place) -> Iterator[None]:
    try:
        yield
    except HfSoupsError as error:
        refused = MemberError(f"member {place.name!r} of the cascade ({place}) cannot be used: {error}")
        refused.exit_status = error.exit_status  # 1 where the Hub failed
        raise refused from error
