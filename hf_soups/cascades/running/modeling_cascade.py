"""A cascade of classifiers for transformers alone: hf_soups need not be installed.

Rows are asked of one model after another until the combined answer is sure enough. `hf-soups cascade build --with-code`
puts this file into the cascade's folder, where `trust_remote_code=True` runs it. Members run no code of their own, and
their weights are read from safetensors. Written by hf_soups, which checks more, and can follow other plans (`budget`).
"""

from __future__ import annotations

import copy
import inspect
import math
import os
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils.generic import ModelOutput

HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download")
INSIDE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
SELF_MADE = ("position_ids", "num_batches_tracked", "relative_position_index")  # buffers that old weights lack
SMALLEST = float(np.finfo(np.float32).tiny)
UNLIMITED = 10**9  # tokens; tokenizers without a limit say 1e30


@dataclass
class CascadeOutput(ModelOutput):
    """What a cascade answers on a batch.

    Attributes:
        logits: natural-log probabilities (rows, classes), float32; their softmax are the probabilities. Of many labels
            a row log-odds, whose sigmoid they are.
        exits: the stage that each row left at (rows,); 0 is the first member.
        costs: of all members that each row met (rows,), float64, in the unit of the plan.
        confidences: at the stage that each row left at (rows,), float32.
        abstained: whether a human should be asked (rows,), bool; only where the plan has such a threshold (`abstain`).
        fell_back: whether an endpoint did not answer, so that the members before it did (rows,), bool; only where the
            cascade has such a member.
    """

    logits: torch.Tensor | None = None
    exits: torch.Tensor | None = None
    costs: torch.Tensor | None = None
    confidences: torch.Tensor | None = None
    abstained: torch.Tensor | None = None
    fell_back: torch.Tensor | None = None


class CascadeImageProcessor(BaseImageProcessor):
    """Hands images on as they are: each member reads what reaches it by its own processor."""

    model_input_names = ["images"]  # noqa: RUF012  # a list, as in its base

    def __call__(self, images: Any, *_: Any, **__: Any) -> BatchFeature:  # type: ignore[override]  # takes no options
        """One image, or several, as the model takes them."""
        return BatchFeature({"images": list(images) if isinstance(images, list | tuple) else [images]})

    preprocess = __call__


class CascadeTokenizer:
    """Hands texts on as they are: each member tokenises what reaches it."""

    pad_token_id, padding_side = 0, "right"  # asked for by pipelines; nothing is padded here

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> CascadeTokenizer:
        """One that needs no files."""
        return cls()

    @classmethod
    def register_for_auto_class(cls, *_: Any) -> None:
        """Nothing is kept: the folder that it came from names it already."""

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Nothing needs to be saved."""

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        truncation: Any = True,
        padding: Any = False,
        return_tensors: Any = None,
        **options: Any,
    ) -> BatchFeature:
        """A text or a pair, or a list of texts with perhaps a list of second ones.

        Raises:
            ValueError: if they are no texts, or are to be cut elsewhere than where the cascade cuts them.
        """
        if options or not truncation:
            raise ValueError(
                f"{', '.join(sorted(options)) or 'truncation=False'}: a cascade tokenises as it did when its "
                "thresholds were chosen (`max_length` in its config). Leave it out."
            )
        firsts = list(text) if isinstance(text, list | tuple) else [text]
        seconds = list(text_pair) if isinstance(text_pair, list | tuple) else [text_pair] * len(firsts)
        rows = list(zip(firsts, seconds, strict=True))
        if not rows or not all(isinstance(a, str) and (b is None or isinstance(b, str)) for a, b in rows):
            raise ValueError(f"got {text!r:.100}; expected a text, or a dictionary of 'text' and 'text_pair'.")
        return BatchFeature({"texts": rows})


class CascadeConfig(PreTrainedConfig):
    """What config.json says: members, the plan that is followed, and where texts are cut."""

    model_type = "cascade"


class Cascade(PreTrainedModel):
    """What the cascades of images and of texts share."""

    config_class = CascadeConfig
    base_model_prefix = ""
    auto, auto_processor = "", ""  # names of what loads a member
    reading: ClassVar[dict[str, Any]] = {}  # how processors are loaded
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: Any, models: Any = (), processors: Any = ()) -> None:
        super().__init__(config)
        self.members = torch.nn.ModuleList(models)
        self.processors = list(processors)
        self.many = config.plan.get("rule", {}).get("confidence") == "labels"  # labels a row
        self.eval()  # type: ignore[no-untyped-call]  # transformers'

    @classmethod
    def from_pretrained(  # type: ignore[override]  # members are loaded: there are no weights of its own to name
        cls, source: Any, *_: Any, config: Any = None, dtype: Any = None, **options: Any
    ) -> Any:
        """The cascade with all its members, from a folder or a Hub repo."""
        hub = {name: options[name] for name in HUB if options.get(name) is not None}
        config = CascadeConfig.from_pretrained(source, **hub) if config is None else config
        loaded: dict[Any, Any] = {}
        models, processors = [], []
        for place in config.members:
            at = (place.get("repo") or str(source), place.get("subfolder") or "", place.get("revision"))
            own = getattr(torch, place.get("dtype", "float32")) if dtype in (None, "auto") else dtype
            if (at, own) not in loaded:
                loaded[at, own] = cls.load_member(*at, own, hub, options.get("attn_implementation"))
            model, processor = loaded[at, own]
            models.append(model)
            processors.append(cls.fitted(copy.deepcopy(processor), model, place, config))
        made = cls(config, models, processors)
        if options.get("device_map") is not None:
            made = made.to(options["device_map"])
        return (made, {}) if options.get("output_loading_info") else made

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Not here: the folder is what a cascade is saved as, and transformers would write one file of all weights."""
        raise NotImplementedError(
            "a cascade is saved by hf_soups alone. Copy its folder, or get it by huggingface_hub.snapshot_download."
        )

    @classmethod
    def load_member(cls, source: str, subfolder: str, revision: Any, dtype: Any, hub: Any, attention: Any) -> Any:
        """A model and its tokenizer or image processor."""
        if subfolder and not INSIDE.fullmatch(subfolder):
            raise ValueError(f"a member in {subfolder!r}: nothing outside the cascade's own folder is read.")
        at = {**hub, "subfolder": subfolder, "trust_remote_code": False, **({"revision": revision} if revision else {})}
        model, info = getattr(transformers, cls.auto).from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, attn_implementation=attention, **at
        )
        missing = [name for name in info["missing_keys"] if not name.endswith(SELF_MADE)]
        if missing:
            raise ValueError(f"{source}/{subfolder}: its weights lack {', '.join(missing[:4])}. Get the cascade again.")
        return model, getattr(transformers, cls.auto_processor).from_pretrained(source, **cls.reading, **at)

    @classmethod
    def fitted(cls, processor: Any, model: Any, place: Any, config: Any) -> Any:
        """The processor as this member of this cascade uses it."""
        raise NotImplementedError  # images and texts each have their own

    def read(self, number: int, rows: list[Any]) -> Any:
        """Rows as the member of that number takes them."""
        raise NotImplementedError  # images and texts each have their own

    def extras(self, number: int) -> dict[str, Any]:
        """What else that member is given."""
        return {}

    @torch.inference_mode()
    def run(self, rows: list[Any]) -> CascadeOutput:
        """Each row meets the members in order, until their combined answer is sure enough."""
        plan, names = self.config.plan, [place["name"] for place in self.config.members]
        stages = [names.index(name) for name in plan["members"]]
        rule = {"combine": "mean", "confidence": "max", **plan.get("rule", {})}
        scales = plan.get("temperatures") or [1.0] * len(stages)
        left, total, votes = np.arange(len(rows)), None, []
        answers: Any = None
        exits, sure = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.float32)
        for stage, (number, threshold) in enumerate(zip(stages, [*plan["thresholds"], 0.0], strict=True)):
            own = self.asked(number, [rows[i] for i in left], scales[stage])
            votes.append(own.argmax(axis=1))
            total = added(total, own, rule["combine"], self.many)
            logs = combined(total, stage + 1, rule["combine"], self.many)
            confidence = confident(logs, total, votes, rule, stage + 1)
            out = confidence >= np.float32(threshold) if stage + 1 < len(stages) else np.ones(len(left), bool)
            answers = np.empty((len(rows), logs.shape[1]), np.float32) if answers is None else answers
            answers[left[out]] = logs[out]
            exits[left[out]], sure[left[out]] = stage, confidence[out]
            left, total, votes = left[~out], total[~out], [vote[~out] for vote in votes]
            if not len(left):
                break
        if self.many:
            answers = log_odds(answers.astype(np.float64)).astype(np.float32)
        costs = np.cumsum(np.asarray(plan["costs"], np.float64))[exits]
        made = CascadeOutput(*(torch.from_numpy(array) for array in (answers, exits, costs, sure)))
        if plan.get("abstain") is not None:
            unsure = (exits == len(stages) - 1) & ~(sure >= np.float32(plan["abstain"]))
            made.abstained = torch.from_numpy(unsure)
        return made

    def asked(self, number: int, rows: list[Any], temperature: float) -> Any:
        """The natural-log probabilities of one member, float32, in the cascade's order of labels."""
        model: Any = self.members[number]
        device, dtype = next((p.device, p.dtype) for p in model.parameters())
        batch = self.read(number, rows)
        batch = {name: v.to(device, dtype if v.is_floating_point() else v.dtype) for name, v in batch.items()}
        logits = model(**batch, **self.extras(number)).logits.float().cpu().numpy().astype(np.float64)
        if order := self.config.members[number].get("label_order"):
            logits = logits[:, order]
        if not np.isfinite(logits).all():
            raise ValueError(f"member {self.config.members[number]['name']!r} answers NaN or infinity.")
        logs = log_probs(logits, self.many).astype(np.float32)
        if temperature == 1:
            return logs
        again = log_odds(logs.astype(np.float64)) if self.many else logs.astype(np.float64)
        return log_probs(again / temperature, self.many).astype(np.float32)


def log_probs(z: Any, many: bool) -> Any:
    """Natural-log probabilities of logits: of classes, or of each label by itself."""
    if many:
        return np.maximum(-np.logaddexp(0.0, -z), np.log(SMALLEST))
    z = z - z.max(axis=1, keepdims=True)
    return np.maximum(z - np.log(np.exp(z).sum(axis=1, keepdims=True)), np.log(SMALLEST))


def log_odds(logs: Any) -> Any:
    """Logits of labels, each by itself."""
    return logs - np.log(np.maximum(-np.expm1(np.minimum(logs, 0.0)), SMALLEST))


def added(total: Any, logs: Any, combine: str, many: bool) -> Any:
    """What members so far sum up to, with one more."""
    own = logs.astype(np.float64)
    if combine == "mean":
        own = np.exp(own)
    elif combine == "geometric" and many:
        own = log_odds(own)
    return own if total is None or combine == "last" else own + total


def combined(total: Any, members: int, combine: str, many: bool) -> Any:
    """The natural-log probabilities of the members so far, float64."""
    if combine == "mean":
        return np.log(np.maximum(total / members, SMALLEST))
    if combine == "last":
        return total
    mean = total / members
    if many:
        return log_probs(mean, many)
    mean = mean - mean.max(axis=1, keepdims=True)
    return mean - np.log(np.exp(mean).sum(axis=1, keepdims=True))


def confident(logs: Any, total: Any, votes: Any, rule: Any, members: int) -> Any:
    """How sure the members so far are, float32 in [0, 1]."""
    kind = rule["confidence"]
    if kind == "agreement":
        return np.stack([vote == total.argmax(axis=1) for vote in votes]).mean(axis=0).astype(np.float32)
    probs = total / members if rule["combine"] == "mean" else np.exp(logs)
    if kind == "learned" and members <= len(rule["scores"]):
        return learned(probs, rule["scores"][members - 1])
    if kind == "labels":
        found = np.maximum(probs, 1 - probs).mean(axis=1)
    elif kind in ("max", "learned") or probs.shape[1] == 1:
        found = probs.max(axis=1)
    elif kind == "gap":
        top = np.partition(probs, -2, axis=1)
        found = top[:, -1] - top[:, -2]
    else:
        entropy = (probs * np.log(np.maximum(probs, SMALLEST))).sum(axis=1)
        found = 1 + entropy / math.log(probs.shape[1])
    return np.clip(found, 0, 1).astype(np.float32)


def learned(probs: Any, coefficients: Any) -> Any:
    """The learned chance that the answer is as good as the last member's, float32 in [0, 1]."""
    top = np.partition(probs, -2, axis=1) if probs.shape[1] > 1 else np.stack([0 * probs[:, 0], probs[:, 0]], axis=1)
    entropy = (probs * np.log(np.maximum(probs, SMALLEST))).sum(axis=1)
    even = 1 + entropy / math.log(probs.shape[1]) if probs.shape[1] > 1 else top[:, -1]
    features = [top[:, -1], top[:, -1] - top[:, -2], even]
    z = np.full(len(probs), coefficients[0])
    for column, weight in zip([*features, *probs.T][: len(coefficients) - 1], coefficients[1:], strict=True):
        z += weight * column
    return (1 / (1 + np.exp(-np.clip(z, -700, 700)))).astype(np.float32)


class CascadeForImageClassification(Cascade):
    """A cascade of image classifiers."""

    main_input_name = "images"
    input_modalities = "image"
    auto, auto_processor = "AutoModelForImageClassification", "AutoImageProcessor"
    reading: ClassVar[dict[str, Any]] = {"backend": "pil"}

    @classmethod
    def fitted(cls, processor: Any, model: Any, place: Any, config: Any) -> Any:
        """The processor, set to the size of images that the member answers at."""
        return processor if place.get("image_size") is None else resized(processor, place["image_size"])

    def read(self, number: int, rows: list[Any]) -> Any:
        """Pixels."""
        return self.processors[number](rows, return_tensors="pt")

    def extras(self, number: int) -> dict[str, Any]:
        """Position embeddings are interpolated where images are of another size than the model's own."""
        model: Any = self.members[number]
        side, own = self.config.members[number].get("image_size"), getattr(model.config, "image_size", None)
        fits = side is None or own in (None, side, [side, side], (side, side))
        name = "interpolate_pos_encoding"
        return {} if fits or name not in inspect.signature(model.forward).parameters else {name: True}

    def forward(self, images: Any = None, **_: Any) -> CascadeOutput:
        """The answers to RGB images, a list of them."""
        if not images:
            raise ValueError("a cascade takes RGB images (images=[...]): each member has a processor of its own.")
        return self.run([one for some in images for one in (some if isinstance(some, list | tuple) else [some])])


def resized(processor: Any, side: int) -> Any:
    """Gives square images of `side` pixels; the share that a centre crop keeps stays the same."""
    square, size = {"height": side, "width": side}, dict(processor.size)
    crop = dict(getattr(processor, "crop_size", None) or {})
    if crop and getattr(processor, "do_center_crop", False):
        kept = crop.get("height") or crop["shortest_edge"]
        processor.crop_size = type(processor.crop_size)(**square)
        size = {edge: round(pixels * side / kept) for edge, pixels in size.items() if pixels}
    else:
        size = {"shortest_edge": side} if size.get("shortest_edge") else square
    processor.size = type(processor.size)(**size)
    return processor


class CascadeForSequenceClassification(Cascade):
    """A cascade of text classifiers, on single texts or pairs."""

    main_input_name = "texts"
    input_modalities = "text"
    auto, auto_processor = "AutoModelForSequenceClassification", "AutoTokenizer"

    @classmethod
    def fitted(cls, processor: Any, model: Any, place: Any, config: Any) -> Any:
        """The tokenizer, cutting texts where the model and the cascade do, and padding where it changes nothing."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # pipelines may fork
        if "position_ids" in inspect.signature(model.forward).parameters:
            processor.padding_side = "right"
        places = getattr(model.config, "max_position_embeddings", None) or 0
        table: Any = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
        if getattr(table, "padding_idx", None) is not None:  # RoBERTa and its like count from the padding index on
            places -= table.padding_idx + 1
        limits = (processor.model_max_length, places, getattr(config, "max_length", None))
        processor.model_max_length = min([int(n) for n in limits if n and 0 < n < UNLIMITED], default=UNLIMITED)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = processor.pad_token_id
        return processor

    def read(self, number: int, rows: list[Any]) -> Any:
        """Token ids, padded to the longest row."""
        tokenizer: Any = self.processors[number]
        columns = [list(column) for column in zip(*rows, strict=True) if column[0] is not None]
        cut = tokenizer.model_max_length < UNLIMITED
        return tokenizer(*columns, truncation=cut, padding=True, return_tensors="pt")

    def forward(self, texts: Any = None, **_: Any) -> CascadeOutput:
        """The answers to texts, or to pairs (text, text), a list of them."""
        if not texts or isinstance(texts, str):
            raise ValueError("a cascade takes raw texts (texts=[...]): each member has a tokenizer of its own.")
        flat = [one for some in texts for one in (some if isinstance(some, list) else [some])]
        rows = [(row, None) if isinstance(row, str) else tuple(row) for row in flat]
        wants = self.config.kind == "text-pair"
        if any((second is not None) != wants for _, second in rows):
            takes = "pairs: give {'text': ..., 'text_pair': ...}" if wants else "single texts, not pairs"
            raise ValueError(f"this cascade takes {takes}.")
        return self.run(rows)
