"""A soup in this process: its weights as tensors, the model that it is, and its score on rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_soups.checkpoint import Checkpoint
from hf_soups.data.columns import NamedColumns, task_columns
from hf_soups.data.load import labelled_split
from hf_soups.errors import DataError, InputError
from hf_soups.files.problem_types import problem_type_of
from hf_soups.files.writing import temporary_folder
from hf_soups.metrics import Metric, Score, metric_named, score
from hf_soups.models.inference import predict_split
from hf_soups.models.registry import FAMILIES, family_for
from hf_soups.predictions import Predictions
from hf_soups.recipe import Data
from hf_soups.recipe.task import METRIC_OF, Task
from hf_soups.soups.scoring import check_labels

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel

    from hf_soups.models.family import Family
    from hf_soups.soups.soup import Soup

WHERE = "the data set"


def model_of(soup: Soup, *, device: str | torch.device | None = None, dtype: torch.dtype | str = "auto") -> Any:
    """See `Soup.to_model`."""
    with _on_disk(soup) as folder:
        model: Any = _loaded(Checkpoint(folder), _dtype(dtype, Checkpoint(folder)))
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def tensors_of(soup: Soup) -> dict[str, torch.Tensor]:
    """See `Soup.state_dict`."""
    from safetensors.torch import load_file

    with _on_disk(soup) as folder:
        files = Checkpoint(folder).weight_files
        return {name: tensor.clone() for file in files for name, tensor in load_file(file).items()}  # no maps of files


def score_of(
    soup: Soup,
    rows: datasets.Dataset,
    metric: Metric | str | None = None,
    *,
    columns: NamedColumns | None = None,
    label_names: Sequence[str] | None = None,
    max_length: int = 128,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> Score:
    """See `Soup.evaluate`."""
    first = soup.saved or soup.ingredients[0]
    about = task_columns(rows, columns or NamedColumns(), WHERE)
    if about["label"] is None:
        raise DataError(f"{WHERE}: no label column among {', '.join(rows.column_names)}. Name it with `label`.")
    of_type = problem_type_of(first.config)
    names = tuple(label_names) if label_names is not None else first.label_names
    task = Task(path=WHERE, label_names=names, problem_type=of_type, **about)
    split = labelled_split(rows, task, WHERE)
    check_labels(first, split.label_names, of_type)
    family = family_for(first.config, task.kind, first)
    encoded = family.encode(split, family.processor(first.processor_folder), task, Data(max_length=max_length), None)
    answers: Predictions = predict_split(model_of(soup, device=device), family, encoded, split, batch_size=batch_size)
    return score(answers, metric_named(metric or METRIC_OF[of_type]))


@contextmanager
def _on_disk(soup: Soup) -> Iterator[Path]:
    """A folder with the soup's weights and config: its own, or one that goes away with the block."""
    if soup.saved is not None:
        yield soup.saved.folder
        return
    with temporary_folder("soup") as folder:
        soup.write_model(folder)
        yield folder


def _loaded(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    import transformers

    name = next(iter(checkpoint.config.get("architectures") or ()), "")
    architecture: Any = getattr(transformers, name, None)
    if architecture is None or name.endswith("Classification"):
        return _family(checkpoint).load(checkpoint.folder, dtype=dtype)
    model: PreTrainedModel = architecture.from_pretrained(checkpoint.folder, dtype=dtype)  # no classifier
    return model


def _family(checkpoint: Checkpoint) -> Family:
    found = next((family for family in FAMILIES if family.accepts(checkpoint.config)), None)
    return family_for(checkpoint.config, "text" if found is None else found.kinds[0], checkpoint)


def _dtype(wanted: torch.dtype | str, checkpoint: Checkpoint) -> torch.dtype:
    named = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype") or "float32"
    found = getattr(torch, str(named if wanted == "auto" else wanted).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise InputError(f"dtype is {wanted!r}; expected a torch.dtype, its name, or 'auto'.")
    return found
