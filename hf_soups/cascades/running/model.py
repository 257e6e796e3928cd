"""Cascades as transformers models: saved, loaded and pushed as one, their members run row by row."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Int64
from transformers import PreTrainedModel

from hf_soups.cascades.plan import Plan, within_budget
from hf_soups.cascades.running.alone import member_logits
from hf_soups.cascades.running.beside import write_beside
from hf_soups.cascades.running.config import CascadeConfig, read_cascade
from hf_soups.cascades.running.members import for_members, load_members, of_member
from hf_soups.cascades.running.modeling_cascade import CascadeOutput
from hf_soups.cascades.simulate import run_rows
from hf_soups.errors import InputError, MemberError, PredictionsError
from hf_soups.files.downloads import download
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, OF_CONFIG, ProblemType
from hf_soups.files.publishing import Publishable
from hf_soups.models.answers import Answers
from hf_soups.models.classifier import Classifier
from hf_soups.models.loading import quiet
from hf_soups.models.readers import GivenPixels, Pair, RawRows, Reader, numbered
from hf_soups.predictions import Predictions
from hf_soups.predictions.predictions import answers_of, at_temperature, logits_again

HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download")
# the numbers of the rows that reach a stage, and what its member alone answered on them
Seen = Callable[[Int64[np.ndarray, " rows"], np.ndarray], None]


# transformers' own push_to_hub would take one level of the members' folders, and write a card that says nothing of the
# cascade: Publishable's comes first, without the options that concern weights of a model's own
class CascadeModel(Publishable, PreTrainedModel):  # type: ignore[misc]  # both have push_to_hub
    """What the cascades of images and of texts share.

    `budget` moves along the stored frontier: members and thresholds of the best plan that costs no more on average.
    """

    config_class = CascadeConfig
    base_model_prefix = ""
    kinds: ClassVar[tuple[str, ...]] = ()
    # attention is the members' own affair: they were loaded with it
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: CascadeConfig, members: Sequence[Classifier] = ()) -> None:
        super().__init__(config)
        if len(members) != len(config.places) or not members:
            raise InputError(
                f"{len(members)} models for the {len(config.places)} members of a cascade. Load it with "
                "from_pretrained(folder), or make its folder with build_cascade()."
            )
        self.loaded = tuple(members)
        self.places = config.places
        self.names = config.names
        self.members = torch.nn.ModuleList(member.model for member in members)  # shared weights stand here twice
        self.readers: tuple[Reader, ...] = tuple(member.reader for member in members)
        self.reader_numbers = numbered(self.readers)
        self._plan: Plan = config.built
        self._budget: float | None = None
        self.eval()  # type: ignore[no-untyped-call]  # transformers'

    @classmethod
    def from_pretrained(  # type: ignore[override]  # members are loaded, no weights of its own
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: CascadeConfig | None = None,
        dtype: torch.dtype | str | Mapping[str, torch.dtype | str] | None = None,
        device_map: str | int | torch.device | Mapping[str, str | int | torch.device] | None = None,
        attn_implementation: str | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """The cascade with all its members.

        Args:
            pretrained_model_name_or_path: a folder, or a Hub repo.
            config: default: the one there.
            dtype: of every member, or of members by name; default and "auto": each answers in the one that its
                predictions were made in.
            device_map: one device for all, such as "cuda:1", or of members by name, {"small": "cpu", "big": "cuda"}.
                In both, "" stands for the members that are not named: of devices, for those that have none of their
                own in the config. Default: their own, or the CPU.
            attn_implementation: of every member.
            output_loading_info: also return which tensors were missing (none: that is an error).
            options: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download` as in transformers.
        Raises:
            MemberError: naming the member that cannot be loaded.
            InputError: if the config is not a cascade's of this kind, or not safe; if there is no such folder or repo.
        """
        source, hub = str(pretrained_model_name_or_path), {k: options[k] for k in HUB if options.get(k) is not None}
        if config is None:
            config, commit = _config_at(source, hub)
            hub |= {} if commit is None else {"revision": commit}  # members of the commit that the config is of
        cls._check_kind(config, source)
        dtype = options.get("torch_dtype") if dtype is None else dtype
        dtypes = {n: own for n, d in for_members(dtype, config.names, "dtype").items() if (own := _as_dtype(d))}
        devices = {n: _one_device(d) for n, d in for_members(device_map, config.names, "device_map").items()}
        placed = [place.name for place in config.places if place.device]
        if isinstance(device_map, Mapping):  # "" is for those that have no device of their own
            devices = {n: device for n, device in devices.items() if n in device_map or n not in placed}
        members = load_members(config, source, dtypes=dtypes, devices=devices, attention=attn_implementation, hub=hub)
        config.name_or_path = source
        config.architectures = [cls.__name__]
        model = cls(config, members)
        if isinstance(device_map, Mapping) or (placed and device_map is None):  # pipelines then leave it where it is
            there: Any = {n: next(m.model.parameters()).device for n, m in zip(config.names, members, strict=True)}
            model.hf_device_map = there
        info: dict[str, Any] = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
        return (model, {**info, "error_msgs": []}) if output_loading_info else model

    def save_pretrained(  # type: ignore[override]  # what concerns weights of its own is left out
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "50GB",
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Write config.json and each member with its processor in a folder of its own; shared weights once.

        Members that are references to the Hub stay so. `push_to_hub` takes `repo_id` and further options of the method
        of that name.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        write_beside(folder, self.kind, code=bool(getattr(self.config, "auto_map", None)))
        for subfolder, member in {place.subfolder: m for place, m in self._own_members()}.items():
            inner = folder / str(subfolder)
            with quiet():
                member.model.save_pretrained(inner, max_shard_size=max_shard_size)
            member.processor.save_pretrained(inner)
        if push_to_hub:
            repo = options.pop("repo_id", folder.name)
            self.push_to_hub(repo, max_shard_size=max_shard_size, **options)

    def _own_members(self) -> list[tuple[Any, Classifier]]:
        placed = zip(self.places, self.loaded, strict=True)
        return [(place, member) for place, member in placed if place.is_inside]

    @property
    def plan(self) -> Plan:
        """The plan that is followed now."""
        return self._plan

    @property
    def budget(self) -> float | None:
        """The average cost allowed, in shares of what the most expensive member costs alone; None: as built.

        Setting it chooses, of the plans stored in the config, the one of the highest score that costs no more on
        average (as measured on the rows that the plans were chosen on).

        Raises:
            InputError: if no stored plan is so cheap.
        """
        return self._budget

    @budget.setter
    def budget(self, share: float | None) -> None:
        self._plan = self.config.built if share is None else within_budget(self.config.plans, share)
        self._budget = share

    @property
    def stages(self) -> tuple[int, ...]:
        """The numbers of the members that rows meet, in order."""
        return tuple(self.names.index(name) for name in self._plan.members)

    @property
    def first_reader(self) -> tuple[int, Reader]:
        """The number and the reader of the member that every row meets."""
        number = self.reader_numbers[self.stages[0]]
        return number, self.readers[number]

    @property
    def reads_once(self) -> bool:
        """Whether all members that rows can meet now read them alike."""
        return len({self.reader_numbers[member] for member in self.stages}) == 1

    @property
    def kind(self) -> str:
        """What a row is: image, text or text-pair."""
        return str(self.config.kind)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of the classes, in the order of the answers."""
        names: tuple[str, ...] = self.config.label_names
        return names

    @property
    def problem_type(self) -> ProblemType:
        """What the answers are."""
        return OF_CONFIG.get(str(self.config.problem_type), CLASSIFICATION)

    @property
    def unit(self) -> str:
        """Of the costs."""
        return self._plan.unit

    @property
    def abstains(self) -> bool:
        """Whether some rows may be for a human."""
        return self._plan.abstain is not None

    @property
    def may_fall_back(self) -> bool:
        """Whether some rows may keep the answer of the members before an endpoint that does not answer."""
        return any(place.fallback == "last" for place in self.places)

    def answer(self, values: Sequence[Any], *, plan: Plan | None = None) -> Answers:
        """The answers to raw rows, as one classifier gives them; see `run`."""
        done = self.run(RawRows(values, len(values)), plan=plan)
        assert done.logits is not None
        assert done.exits is not None
        assert done.costs is not None
        answers = done.logits.numpy()
        if self.problem_type == MULTI_LABEL:
            answers = Predictions.from_logits(answers, problem_type=MULTI_LABEL).log_probs
        abstained = None if done.abstained is None else done.abstained.numpy()
        fell_back = None if done.fell_back is None else done.fell_back.numpy()
        return Answers(answers, done.exits.numpy(), done.costs.numpy(), abstained, fell_back)

    @torch.inference_mode()
    def run(self, rows: RawRows, *, plan: Plan | None = None, seen: Seen | None = None) -> CascadeOutput:
        """The cascade's answers on a batch of raw rows.

        Args:
            rows: images or texts.
            plan: another one over these members, for this batch alone; default: the one that is followed now.
            seen: called at each stage with the numbers of the rows that reach it, and what that member alone answered
                on them: natural-log probabilities (rows, classes), at its temperature.
        Raises:
            InputError: if there are no rows.
        """
        if not rows.count:
            raise InputError("an empty batch: give one row at least.")
        plan = self._plan if plan is None else plan
        stages = [self.names.index(name) for name in plan.members]
        temperatures = plan.temperatures or (1.0,) * len(stages)

        def answer(stage: int, at: Int64[np.ndarray, " rows"]) -> np.ndarray:
            own = self._log_probs(stages[stage], rows, at, temperatures[stage])
            answered = ~np.isnan(own[:, 0]) if may_fail else np.ones(len(at), dtype=bool)
            if not stage and not answered.all():
                raise MemberError(
                    f"member {plan.members[0]!r} of the cascade, which all rows meet first, did not answer, and no "
                    "member before it has."
                )
            if seen is not None:
                seen(at[answered], own[answered])
            return own

        may_fail = self.may_fall_back
        done = run_rows(answer, rows.count, plan.thresholds, plan.rule, plan.abstain, may_fail=may_fail)
        return CascadeOutput(
            logits=torch.from_numpy(self._as_logits(done.log_probs)),
            exits=torch.from_numpy(done.exits),
            costs=torch.from_numpy(np.asarray(plan.cost_by_exit)[done.exits]),
            confidences=torch.from_numpy(done.confidences),
            abstained=None if done.abstained is None else torch.from_numpy(done.abstained),
            fell_back=None if done.fell_back is None else torch.from_numpy(done.fell_back),
        )

    def _as_logits(self, log_probs: np.ndarray) -> np.ndarray:
        """What the function that stock pipelines apply to this problem type turns into the probabilities."""
        if self.problem_type == CLASSIFICATION:
            return log_probs
        return logits_again(log_probs.astype(np.float64), self.problem_type).astype(np.float32)

    def _log_probs(self, number: int, rows: RawRows, at: Int64[np.ndarray, " rows"], temperature: float) -> np.ndarray:
        reader = self.reader_numbers[number]
        logits: torch.Tensor | None = None
        for piece, batch in rows.pieces(reader, self.readers[reader].read, at):
            with of_member(self.places[number]):
                own = member_logits(self.loaded[number], batch)
            if len(piece) == len(at):
                logits = own
                break
            logits = own.new_empty(len(at), own.shape[1]) if logits is None else logits
            logits[torch.from_numpy(piece).to(own.device)] = own
        assert logits is not None
        values, of_type = logits.cpu().numpy(), self.problem_type
        gone = np.isnan(values).all(axis=1) if self.places[number].fallback == "last" else None
        try:
            if gone is None or not gone.any():
                return at_temperature(answers_of(values, of_type), temperature, of_type)
            known = at_temperature(answers_of(np.where(gone[:, None], 0, values), of_type), temperature, of_type)
            return np.where(gone[:, None], np.float32(np.nan), known)
        except PredictionsError as error:
            raise MemberError(f"member {self.names[number]!r} of the cascade: {error}") from error

    @classmethod
    def _check_kind(cls, config: Any, source: str) -> None:
        if not isinstance(config, CascadeConfig) or not config.members:
            raise InputError(f"{source}: no cascade, but a model of type {getattr(config, 'model_type', None)!r}.")
        if config.kind not in cls.kinds:
            raise InputError(
                f"{source}: a cascade of kind {config.kind!r}; {cls.__name__} takes {' and '.join(cls.kinds)}. Use "
                f"{'CascadeForImageClassification' if config.kind == 'image' else 'CascadeForSequenceClassification'}."
            )


def _config_at(source: str, hub: Mapping[str, Any]) -> tuple[CascadeConfig, str | None]:
    """The config and, of a repo of the Hub, the commit it is of."""
    here = Path(source)
    local = here.is_dir()
    rest = {name: value for name, value in hub.items() if name != "revision"}
    folder = here if local else download(source, hub.get("revision"), None, **rest)
    if not (folder / "config.json").is_file():
        raise InputError(f"{source}: no config.json there. Name a cascade: hf-soups cascade build writes its folder.")
    return read_cascade(folder), None if local else folder.name


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto":
        return None
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype):
        raise InputError(f"dtype={dtype!r}; expected a torch.dtype, its name, or 'auto'.")
    return named


def _one_device(device_map: Any) -> torch.device:
    try:
        return torch.device(device_map)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"device_map={device_map!r}: expected one device, device_map='cuda:0', or that of each member by its name, "
            "device_map={'small': 'cpu', 'big': 'cuda:0'}."
        ) from error


__all__ = ["CascadeForImageClassification", "CascadeForSequenceClassification", "CascadeModel", "CascadeOutput"]


class CascadeForImageClassification(CascadeModel):
    """A cascade of image classifiers."""

    main_input_name = "pixel_values"
    input_modalities = "image"
    kinds = ("image",)

    def forward(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
        *,
        images: Sequence[Any] | None = None,
    ) -> CascadeOutput:
        """The answers on a batch, with each row's exit stage, cost and confidence.

        Args:
            pixel_values: (rows, channels, height, width) where all members read images alike, else one such tensor
                for each member.
            images: instead: RGB images, which each member's own processor reads when its turn comes.
        Raises:
            InputError: if neither or both are given, or one tensor is given to members that read images differently.
        """
        if (pixel_values is None) == (images is None):
            raise InputError("give pixel_values or images, one of them.")
        if images is not None:
            # stock pipelines collate batches of one
            flat = [one for some in images for one in (some if isinstance(some, list | tuple) else (some,))]
            return self.run(RawRows(flat, len(flat)))
        assert pixel_values is not None
        return self.run(self._given(pixel_values))

    def _given(self, pixels: torch.Tensor | Sequence[torch.Tensor]) -> RawRows:
        if isinstance(pixels, torch.Tensor):
            if not self.reads_once:
                raise InputError(
                    "one tensor of pixel_values, but the members' image processors differ. Give a list of one tensor "
                    f"for each of the {len(self.loaded)} members, or the images themselves (images=...)."
                )
            pixels = [pixels] * len(self.loaded)
        if len(pixels) != len(self.loaded):
            raise InputError(f"{len(pixels)} tensors of pixel_values for {len(self.loaded)} members.")
        count = len(pixels[0])
        at = np.arange(count)
        read = {number: (at, GivenPixels(p)) for number, p in zip(self.reader_numbers, pixels, strict=True)}
        return RawRows((), count, read)  # type: ignore[arg-type]  # GivenPixels is Encoded


class CascadeForSequenceClassification(CascadeModel):
    """A cascade of text classifiers, on single texts or pairs; each member has its own tokenizer."""

    main_input_name = "texts"
    input_modalities = "text"
    kinds = ("text", "text-pair")

    def forward(
        self, texts: Sequence[str | Pair] | None = None, *, input_ids: torch.Tensor | None = None
    ) -> CascadeOutput:
        """The answers on a batch of raw texts, or of pairs (text, text): each member tokenises what reaches it.

        Raises:
            InputError: if token ids are given instead, or what is given are no texts.
        """
        if texts is None or isinstance(texts, str):
            got = "one text" if isinstance(texts, str) else "none" if input_ids is None else "token ids"
            raise InputError(
                "a cascade takes a list of raw texts (texts=[...]), because each member has its own tokenizer; "
                f"got {got}."
            )
        # stock pipelines collate batches of one
        flat = [one for some in texts for one in (some if isinstance(some, list) else (some,))]
        pairs = [(text, None) if isinstance(text, str) else (text[0], text[1]) for text in flat]
        check_pairs(pairs, self.kind)
        return self.run(RawRows(pairs, len(pairs)))


def check_pairs(rows: Sequence[Pair], kind: str) -> None:
    """Refuse pairs where the cascade takes single texts, and single texts where it takes pairs.

    Raises:
        InputError: naming the first of them.
    """
    wants = kind == "text-pair"
    if {second is not None for _, second in rows} == {not wants}:  # a mixture of both has an error of its own
        takes = "pairs: give {'text': ..., 'text_pair': ...}" if wants else "single texts, not pairs"
        got = rows[0] if rows[0][1] is not None else rows[0][0]
        raise InputError(f"got {got!r:.100}, but this cascade takes {takes}.")


def cascade_class(kind: str) -> type[CascadeModel]:
    """The class of cascades of a kind of rows: image, text or text-pair."""
    return CascadeForImageClassification if kind == "image" else CascadeForSequenceClassification
