"""LiveMixer: one live torch model whose weights are swapped in place, so that many mixtures are scored cheaply.

Greedy asks for the mean of the members so far and one candidate. The members' sum is kept, so each question reads
the candidate alone, and memory is that of two models for any number of ingredients.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, IncompatibleCheckpoints, InputError
from hf_soups.files.dtypes import FLOATS
from hf_soups.files.loaded_names import loaded_names
from hf_soups.files.writing import temporary_folder
from hf_soups.soups.mixing.blocks import BlockMixer
from hf_soups.soups.mixing.spans import COUNTER, self_made, shared_names
from hf_soups.soups.mixing.to_files import Coefficients, coefficients_of, mix_tensor, mix_to_folder

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from transformers import PreTrainedModel

TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


class LiveMixer:
    """Puts mixtures of checkpoints into `model`, in place; the model answers as the saved mixture would."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._slots = slots_by_disk_name(model)
        self.forget()

    def forget(self) -> None:
        """Drop the running sum and the memory it takes; the model keeps its present weights."""
        self._members: tuple[Checkpoint, ...] = ()
        self._sums: dict[str, torch.Tensor] = {}
        self._integers: dict[str, np.ndarray] = {}

    def load(self, checkpoints: Sequence[Checkpoint], coefficients: Coefficients) -> None:
        """Put sum(coefficient x checkpoint) into the model. The running sum of `set_uniform` stays as it is.

        Args:
            checkpoints: models with the same tensor names and shapes as the live one.
            coefficients: one per checkpoint, or for every tensor's name one per checkpoint.

        Raises:
            IncompatibleCheckpoints: if names or shapes differ between the checkpoints or from the model's.
            CheckpointError: if one cannot be read, or holds NaN or infinity.
        """
        names = self._names(checkpoints)
        if names is None:
            self._reload(checkpoints, coefficients)
            return
        row = coefficients_of(checkpoints, coefficients, shared_names(checkpoints))
        with BlockMixer() as mixer:
            for name in names:
                self._put(name, mix_tensor(mixer, checkpoints, row(name), name), checkpoints[0])

    def set_uniform(self, members: Sequence[Checkpoint], candidate: Checkpoint | None = None) -> None:
        """Put the plain mean of `members` and `candidate` into the model.

        The sum of `members` is kept between calls: a call whose members begin with those of the call before reads
        the further members and the candidate only. For other members the sum is made anew.

        Raises:
            As `load`. After an error the sum is forgotten; the model may hold weights of two mixtures.
        """
        together = [*members, *([] if candidate is None else [candidate])]
        if not together:
            raise InputError("nothing to mix: give at least one member or a candidate.")
        if not members:
            self.load(together, [1.0])  # one alone needs no sum, and the kept one stays
            return
        names = self._names(together)
        if names is None:
            self._reload(together, [1 / len(together)] * len(together))
            return
        try:
            with BlockMixer() as mixer:
                self._remember(mixer, members, names)
                for name in names:
                    self._put_mean(mixer, name, candidate, together[0], len(together))
        except BaseException:
            self.forget()  # half the tensors may have been added
            raise

    # The running sum.

    def _remember(self, mixer: BlockMixer, members: Sequence[Checkpoint], names: Sequence[str]) -> None:
        seen = set(self._sums) | set(self._integers)
        if tuple(members[: len(self._members)]) != self._members or (self._members and seen != set(names)):
            self.forget()
        for member in members[len(self._members) :]:
            for name in names:
                self._add(mixer, member, name)
            self._members = (*self._members, member)

    def _add(self, mixer: BlockMixer, member: Checkpoint, name: str) -> None:
        if member.tensors[name].dtype not in FLOATS:
            self._integers.setdefault(name, self._integer(mixer, member, name))
            return
        values = self._values(mixer, member, name)
        if name in self._sums:
            self._sums[name].add_(values)
        else:
            self._sums[name] = values

    def _put_mean(self, mixer: BlockMixer, name: str, candidate: Checkpoint | None, first: Checkpoint, k: int) -> None:
        import torch

        if first.tensors[name].dtype not in FLOATS:
            self._put(name, self._integers[name] if candidate is None else self._integer(mixer, candidate, name), first)
            return
        if candidate is None:
            mean = self._sums[name] * (1 / k)
        else:
            mean = self._values(mixer, candidate, name).add_(self._sums[name]).mul_(1 / k)
        # the two ends show it, NaN included, in a fifth of the time that isfinite() of every element takes
        if mean.numel() and not bool(torch.isfinite(torch.stack(mean.aminmax())).all()):
            raise InputError(f"{name!r}: the sum of {k} checkpoints does not fit float32. Scale their weights down.")
        self._put(name, mean, first)

    def _integer(self, mixer: BlockMixer, checkpoint: Checkpoint, name: str) -> np.ndarray:
        """A tensor of integers, equal to the first member's; of BatchNorm's counters the first member's is taken."""
        values = mix_tensor(mixer, [checkpoint], [1.0], name)
        known = self._integers.get(name)
        if known is None or name.endswith(COUNTER):
            return values if known is None else known
        if not np.array_equal(known, values):
            raise IncompatibleCheckpoints(
                f"{checkpoint}: the integers of {name!r} differ from those of {self._members[0]}. Integers cannot be "
                "averaged: mix models of one architecture and start."
            )
        return known

    def _values(self, mixer: BlockMixer, checkpoint: Checkpoint, name: str) -> Float[torch.Tensor, "*shape"]:
        import torch

        assert self._slots is not None
        read = mix_tensor(mixer, [checkpoint], [1.0], name, accumulate="float32").astype(np.float32, copy=False)
        return torch.from_numpy(read).to(self._slots[name].device)

    # The model's tensors.

    def _put(self, name: str, values: np.ndarray | torch.Tensor, first: Checkpoint) -> None:
        """Copy into the model, rounded to the files' dtype on the way as the saved mixture would be."""
        import torch

        assert self._slots is not None
        slot, info = self._slots[name], first.tensors[name]
        tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        if info.dtype in FLOATS:
            tensor = tensor.to(getattr(torch, TORCH_NAMES[info.dtype]))
        with torch.no_grad():
            slot.copy_(tensor)

    def _names(self, checkpoints: Sequence[Checkpoint]) -> tuple[str, ...] | None:
        """The names to mix when they are the model's own; None where transformers must convert them.

        Tied weights are one tensor under several names: the one that the files hold is enough.
        """
        names = shared_names(checkpoints)
        if self._slots is not None:  # buffers that the model makes itself may be stored, and are not loaded
            names = tuple(n for n in names if n in self._slots or not self_made(checkpoints[0], n))
        if self._slots is None or not set(names) <= set(self._slots):
            return None
        covered = {_place(self._slots[name]) for name in names}
        if any(_place(t) not in covered for name, t in self._slots.items() if not name.endswith(COUNTER)):
            return None
        for name in names:
            stored, live = checkpoints[0].tensors[name].shape, tuple(self._slots[name].shape)
            if stored != live:
                raise IncompatibleCheckpoints(
                    f"{checkpoints[0]}: {name!r} has shape {stored}, but the model's has {live}. Load the model from "
                    "one of the ingredients."
                )
        return names

    def _reload(self, checkpoints: Sequence[Checkpoint], coefficients: Coefficients) -> None:
        """The slow way for names that transformers converts: save the mixture, load it, copy it over."""
        model = self.model
        with temporary_folder("mix") as folder:
            mix_to_folder(checkpoints, coefficients, folder)
            (folder / "config.json").write_text(json.dumps(dict(checkpoints[0].config)), encoding="utf-8")
            cls: Any = type(model)
            loaded, about = cls.from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
        lacking = sorted(name for name in about["missing_keys"] if not name.endswith(COUNTER))
        if lacking:
            raise CheckpointError(
                f"{checkpoints[0]}: {type(model).__name__} has {len(lacking)} tensors that it lacks: {lacking[:4]}. "
                "Choose ingredients that were fine-tuned as this model."
            )
        model.load_state_dict(loaded.state_dict())


def slots_by_disk_name(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """The model's own tensors by the names that `save_pretrained` gives them.

    None where saving does more than rename: then no tensor on disk is one of the model's.
    """
    from transformers.core_model_loading import revert_weight_conversion

    own = model.state_dict()
    places = {_place(tensor) for tensor in own.values()}
    named: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(own))
    loaded_by = loaded_names(named)  # a model that was loaded from old names, or a wrapper's, would be saved with these
    if not all(_place(tensor) in places for tensor in named.values()):
        return None
    return {loaded_by[name]: tensor for name, tensor in named.items()}


def _place(tensor: torch.Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)
