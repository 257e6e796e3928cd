"""The shared start: base weights and one head, the same for every run, because soups of different heads collapse."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, Shaped

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import Splits
from hf_soups.data.split import strata, stratified_rows
from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.problem_types import CLASSIFICATION, IN_CONFIG, REGRESSION, ProblemType, check_problem_type
from hf_soups.files.reading import read_json
from hf_soups.files.writing import write_json, written_whole
from hf_soups.models.clip import Clip, TextHead, text_head
from hf_soups.models.encoder import check_precision
from hf_soups.models.family import Family
from hf_soups.models.inference import length_buckets, on_device
from hf_soups.models.layers import final_linear, frozen_features, head_fingerprint, head_parameters
from hf_soups.models.loading import Loaded, quiet
from hf_soups.models.registry import family_for, label_words_family
from hf_soups.models.row_cache import locked
from hf_soups.recipe import Head, Recipe
from hf_soups.recipe.prompts import WORDS_KEY, wording_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.models.family import Encoded

START_FILE = "start.json"
FORMAT = "hf_soups.start.v1"
PROBE_BATCH = 64
ABSENT = 5.0  # nats below the others: a class that the probe saw no row of


@dataclass(frozen=True, eq=False, slots=True)
class Start:
    """A start in memory, ready to be fine-tuned."""

    model: PreTrainedModel
    processor: Any
    family: Family
    head_fingerprint: str


def make_start(recipe: Recipe, splits: Splits, out: Path, *, cache: Path | None = None) -> Path:
    """The folder of the recipe's start, made unless it is there: an ordinary checkpoint and start.json.

    The same recipe and data give the same head in any process; several may ask for it at once.

    Args:
        recipe: model, head and, for a linear probe, task and data.
        splits: label names, and the train rows that a probe is fitted on.
        out: the folder.
        cache: where encoded rows are kept.
    Raises:
        InputError: if `out` holds something else, or the model cannot be the start of this task.
    """
    base = Checkpoint(recipe.model, recipe.revision)
    key = start_key(recipe, splits)
    with locked(out):
        # 0.1.0 looked at a sample of many images alone
        if _is_start(out, (key, start_key(recipe, splits, splits.train.fingerprint.partition("+")[0]))):
            return out
        loaded, family = _with_head(recipe, splits, base, cache)
        processor = family.processor(base.folder, image_size=recipe.data.image_size)
        about = {
            "format": FORMAT,
            "key": key,
            "head_fingerprint": head_fingerprint(loaded.model, loaded.new_parameters),
            "head_init": recipe.head.init,
            "head_parameters": list(loaded.new_parameters),
            "base": recipe.model,
            "revision": recipe.revision,
            "label_names": list(splits.label_names),
        }
        with written_whole(out, marker=START_FILE) as partial, quiet():
            loaded.model.save_pretrained(partial)
            processor.save_pretrained(partial)
            write_json(partial / START_FILE, about)
    return out


def start_key(recipe: Recipe, splits: Splits, train: str = "") -> str:
    """A short name for everything that decides what the start is; `train` is another fingerprint of the same rows."""
    local = Path(recipe.model).expanduser().is_dir()
    weights = Checkpoint(recipe.model).sha256() if local else recipe.model
    about: list[Any] = [FORMAT, weights, recipe.revision]
    about += [
        recipe.head.model_dump(exclude=_not_of(recipe.head)),
        splits.label_names,
        recipe.data.image_size,
        recipe.task.kind,
    ]
    if recipe.task.problem_type != CLASSIFICATION:
        about.append(recipe.task.problem_type)
    if recipe.head.init == "label-words":
        about += [recipe.task.name, recipe.task.columns]  # defaults go by the task's name
    if recipe.head.init == "linear-probe":
        about += [train or splits.train.fingerprint, recipe.data.max_length]
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _not_of(head: Head) -> set[str]:
    """The keys of a head that another kind of start asks for: they change nothing."""
    of = {"zero-shot": {"templates", "class_texts"}, "label-words": {"words", "prompt"}}
    return {key for init, keys in of.items() if init != head.init for key in keys}


def load_start(folder: Path, recipe: Recipe, splits: Splits) -> Start:
    """A start, or any checkpoint with a head for this task, loaded in float32.

    Raises:
        CheckpointError: if its labels are not the task's.
    """
    checkpoint = Checkpoint(folder)
    family = family_for(checkpoint.config, recipe.task.kind, checkpoint)
    check_problem_type(checkpoint.config, recipe.task.problem_type, checkpoint)
    _check_labels(checkpoint, splits.label_names, recipe.task.problem_type)
    check_precision(checkpoint.config, recipe.train.precision, str(checkpoint))
    model = family.load(checkpoint.folder)
    processor = family.processor(checkpoint.folder, image_size=recipe.data.image_size)
    # where none is recorded, the whole head of the checkpoint is what the runs from it share
    fingerprint = checkpoint.head_fingerprint if (checkpoint.folder / START_FILE).is_file() else None
    return Start(model, processor, family, fingerprint or head_fingerprint(model, head_parameters(model)))


def with_random_weights(start: Start, seed: int) -> Start:
    """The start with every weight drawn anew by `seed`, and a head that runs with other seeds do not share."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(start.model)(start.model.config)
    return replace(start, model=model, head_fingerprint=head_fingerprint(model, head_parameters(model)))


def _is_start(out: Path, keys: Sequence[str]) -> bool:
    """Whether the start of one of these keys is there; anything else there is an error."""
    if not out.exists():
        return False
    try:
        found = read_json(out / START_FILE).get("key")
    except (OSError, InputError):
        found = None
    if found not in keys:
        raise InputError(
            f"{out}: holds {'a start made from another model, head or data' if found else 'something that is no start'}"
            ". Choose another folder, or remove this one if nothing needs it."
        )
    return True


def _with_head(recipe: Recipe, splits: Splits, base: Checkpoint, cache: Path | None) -> tuple[Loaded, Family]:
    family = _starting_family(recipe, splits, base)
    check_precision(base.config, recipe.train.precision, str(base))
    if recipe.head.init == "keep":
        check_problem_type(base.config, recipe.task.problem_type, base)
        _check_labels(base, splits.label_names, recipe.task.problem_type)
    texts = _head_of_texts(recipe, splits, base, family) if recipe.head.init == "zero-shot" else None
    loaded = family.load_with_new_head(
        base.folder, label_names=splits.label_names, seed=recipe.head.seed, image_size=recipe.data.image_size
    )
    loaded.model.config.problem_type = IN_CONFIG[recipe.task.problem_type]
    _check_finite(loaded.model, base)
    if recipe.head.init == "keep":
        _copy_head(loaded, family.load(base.folder))
    elif recipe.head.init == "linear-probe":
        _fit_probe(loaded, family, recipe, splits, base, cache)
    elif texts is not None:
        texts.put_into(loaded.model)
    return loaded, family


def _starting_family(recipe: Recipe, splits: Splits, base: Checkpoint) -> Family:
    """The family that the start will be of; a new head makes a classifier of a model that had label words."""
    head, config = recipe.head, dict(base.config)
    if head.init == "label-words":
        return label_words_family(
            config,
            lambda masked: wording_for(head.words, head.prompt, recipe.task, splits.label_names, masked=masked),
        )
    if head.init != "keep":
        config.pop(WORDS_KEY, None)
    return family_for(config, recipe.task.kind)


def _head_of_texts(recipe: Recipe, splits: Splits, base: Checkpoint, family: Family) -> TextHead:
    """The head that the text tower makes of the classes' names."""
    head, names = recipe.head, splits.label_names
    if not isinstance(family, Clip):
        raise CheckpointError(
            f"{base}: head.init: zero-shot makes the head of texts, for which a CLIP or SigLIP with its text tower is "
            f"needed; this model is of type {base.config.get('model_type')!r}. Use head.init: linear-probe."
        )
    if not head.class_texts and all(name.isdecimal() for name in names):
        raise InputError(
            f"the data call their classes {_short(names)}, and numbers say little to a text tower. Write what they "
            'show in head.class_texts ("0": "airplane", ...), or their names in task.label_names.'
        )
    return text_head(base.folder, names, head.templates, head.class_texts)


def _check_finite(model: torch.nn.Module, base: Checkpoint) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise CheckpointError(f"{base}: {name} holds NaN or infinity: the checkpoint is broken. Take another one.")


def _check_labels(checkpoint: Checkpoint, wanted: tuple[str, ...], of_type: ProblemType) -> None:
    names = checkpoint.label_names
    if names == wanted or of_type == REGRESSION:  # one number, whatever it is called
        return
    if names is None:
        what = "names its labels LABEL_0, LABEL_1, ..., so which is which is not known. Write id2label in its config"
    elif sorted(names) == sorted(wanted):
        what = f"has its labels in the order {list(names)}. Set task.label_names to that order"
    else:
        what = f"has the labels {_short(names)}. Use head.init: shared-random or linear-probe for a new head"
    raise CheckpointError(f"{checkpoint}: the task's labels are {_short(wanted)}, but this checkpoint {what}.")


def _short(names: tuple[str, ...], most: int = 10) -> str:
    return str(list(names)) if len(names) <= most else f"{list(names[:most])} and {len(names) - most} more"


@torch.no_grad()
def _copy_head(loaded: Loaded, own: PreTrainedModel) -> None:
    theirs = dict(own.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        if name in loaded.new_parameters:
            parameter.copy_(theirs[name])


def _fit_probe(
    loaded: Loaded, family: Family, recipe: Recipe, splits: Splits, base: Checkpoint, cache: Path | None
) -> None:
    """Fit the last linear layer on what it reads from the frozen model, as in the paper."""
    processor = family.processor(base.folder, image_size=recipe.data.image_size)
    encoded = family.encode(splits.train, processor, recipe.task, recipe.data, cache)
    labels = splits.train.labels
    rows = stratified_rows(strata(labels), min(recipe.head.probe_rows, len(labels)), recipe.head.seed)
    features = _features(loaded.model, family, encoded, rows)
    if splits.train.problem_type == CLASSIFICATION:
        weight, bias = linear_probe(features, labels[rows], len(splits.label_names))
    else:
        weight, bias = probe_of_targets(features, labels[rows])
    layer = final_linear(loaded.model)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))


def _features(
    model: torch.nn.Module, family: Family, encoded: Encoded, rows: Int64[np.ndarray, " rows"]
) -> Float64[np.ndarray, "rows features"]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    made = []
    buckets = length_buckets(encoded.lengths[rows], PROBE_BATCH)
    with one_thread():
        for bucket in buckets:
            batch = on_device(encoded.batch(rows[bucket]), device)
            made.append(frozen_features(model, partial(family.logits, model, batch)).cpu().numpy())
    model.to("cpu")
    order = np.argsort(np.concatenate(buckets))
    return np.concatenate(made)[order].astype(np.float64)


@contextmanager
def one_thread() -> Iterator[None]:
    """On one CPU thread: the order of sums, and with it the last bits of the head, depends on their number."""
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def linear_probe(
    features: Float64[np.ndarray, "rows features"], labels: Int64[np.ndarray, " rows"], classes: int
) -> tuple[Float64[np.ndarray, "classes features"], Float64[np.ndarray, " classes"]]:
    """Weight and bias of a logistic regression, by scikit-learn, on standardised features.

    A class without rows gets the lowest bias and no weight.

    Raises:
        InputError: if all rows are of one class.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        raise InputError("all rows of the linear probe are of one class. Raise head.probe_rows.")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged after 1,000 iterations is good enough to start from
        fitted = LogisticRegression(max_iter=1000).fit((features - mean) / deviation, labels)
        slopes, offsets = fitted.coef_, fitted.intercept_
        if len(fitted.classes_) == 2:  # one logit for two classes: half of it for each, with opposite signs
            slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
        weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, offsets.min() - ABSENT)
        weight[fitted.classes_] = slopes / deviation
        bias[fitted.classes_] = offsets - (slopes / deviation) @ mean
    return weight, bias


def probe_of_targets(
    features: Float64[np.ndarray, "rows features"], labels: Shaped[np.ndarray, "rows ..."]
) -> tuple[Float64[np.ndarray, "labels features"], Float64[np.ndarray, " labels"]]:
    """Weight and bias of a logistic regression for each label, or of a ridge regression of the rows' numbers."""
    from sklearn.linear_model import Ridge

    if labels.ndim == 2:
        both = [_probe_of_label(features, label) for label in labels.T]
        return np.stack([weight for weight, _ in both]), np.array([bias for _, bias in both])
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    with one_thread():
        fitted = Ridge().fit((features - mean) / deviation, labels)
    weight = (fitted.coef_ / deviation)[None]
    return weight, fitted.intercept_ - weight @ mean


def _probe_of_label(
    features: Float64[np.ndarray, "rows features"], label: Int64[np.ndarray, " rows"]
) -> tuple[Float64[np.ndarray, " features"], float]:
    if len(np.unique(label)) < 2:  # nothing to tell apart: what all rows have
        return np.zeros(features.shape[1]), ABSENT if label.any() else -ABSENT
    weight, bias = linear_probe(features, label, 2)
    return weight[1] - weight[0], float(bias[1] - bias[0])
