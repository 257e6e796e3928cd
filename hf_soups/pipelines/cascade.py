"""What the cascade pipelines of images and texts share: batches of raw rows in, the stock pipelines' answers out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch.utils.data import DataLoader
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from hf_soups.cascades.running.model import CascadeModel, CascadeOutput
from hf_soups.cascades.running.readers import Rows
from hf_soups.errors import InputError


@dataclass(frozen=True, eq=False)
class Collate:
    """Puts rows together as the first member reads them; it runs in the worker processes where there are any."""

    number: int  # of the first member's reader
    reader: Any
    keeps: bool  # the raw rows too, for members that read them in another way

    def __call__(self, values: Sequence[Any]) -> Rows:
        """The rows of one batch."""
        encoded = self.reader.read(values)
        return Rows(values if self.keeps else (), len(values), {self.number: (np.arange(len(values)), encoded)})


class CascadePipeline:
    """A mixin in front of a stock pipeline: it takes over everything between raw rows and logits.

    The stock class's `__call__` and the nesting of its answers stay. The members bring their own processors, so none
    is loaded for the pipeline itself.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    stock_task = ""
    task: str
    model: Any
    forward: Any
    preprocess: Any
    postprocess: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.task = self.stock_task  # what it does, by the name that evaluators ask for

    def check_model_type(self, supported_models: Any) -> None:
        """Refuse what is no cascade; called by the stock pipeline.

        Raises:
            InputError: if the model is another one.
        """
        if not isinstance(self.model, CascadeModel):
            raise InputError(
                f"{type(self.model).__name__} is no cascade. Use the task {self.stock_task!r} for a single model."
            )

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """See the stock pipeline; `return_exits=True` adds "exit", "members" and "cost" to each answer."""
        if inputs is None or (isinstance(inputs, list | tuple) and not len(inputs)):
            raise InputError(f"nothing to classify: got {inputs!r}. Give at least one row.")
        return super().__call__(inputs, **kwargs)  # type: ignore[misc]  # of the stock pipeline

    def _collate(self) -> Collate:
        number, reader = self.model.first_reader
        reader.prepare()
        return Collate(number, reader, not self.model.reads_once)

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: Mapping[str, Any],
        forward_params: Mapping[str, Any],
        postprocess_params: Mapping[str, Any],
    ) -> Any:
        """Batches of raw rows through the cascade, unless `inputs` is a single row."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as the stock pipelines: workers are forked
        sized = hasattr(inputs, "__len__")
        kind, workers = (PipelineDataset, num_workers) if sized else (PipelineIterator, min(num_workers, 1))
        rows = kind(inputs, self.preprocess, preprocess_params)
        batches = DataLoader(rows, num_workers=workers, batch_size=batch_size, collate_fn=self._collate())
        of: Any = PipelineIterator
        return of(of(batches, self.forward, forward_params, batch_size), self.postprocess, postprocess_params)

    def run_single(
        self,
        inputs: Any,
        preprocess_params: Mapping[str, Any],
        forward_params: Mapping[str, Any],
        postprocess_params: Mapping[str, Any],
    ) -> Any:
        """One row."""
        row = self.preprocess(inputs, **preprocess_params)
        output = self.forward(self._collate()([row]), **forward_params)
        return self.postprocess(output, **postprocess_params)

    def _forward(self, rows: Rows) -> CascadeOutput:
        answered: CascadeOutput = self.model.run(rows)
        return answered

    def ranked(self, output: Any, top_k: int | None, function: str | None, return_exits: bool) -> list[dict[str, Any]]:
        """Labels and scores of one row, the highest score first; of equal ones the first label first."""
        scores = applied(output["logits"][0].numpy(), function or "softmax")
        best = np.argsort(-scores, kind="stable")[:top_k]
        names, about = self.model.config.id2label, self.about_exit(output) if return_exits else {}
        return [{"label": names[i], "score": scores[i].item(), **about} for i in best.tolist()]

    def about_exit(self, output: Any) -> dict[str, Any]:
        """Where a row left, which members it met and what they cost."""
        stage = int(output["exits"][0])
        members = list(self.model.plan.members[: stage + 1])
        return {"exit": stage, "members": members, "cost": float(output["costs"][0])}


def applied(log_probs: Float32[np.ndarray, " classes"], function: str) -> Float32[np.ndarray, " classes"]:
    """Scores from log-probabilities, by a function that the stock pipelines know.

    Raises:
        InputError: if they do not know it.
    """
    name = str(getattr(function, "value", function)).lower()
    if name not in _FUNCTIONS:
        raise InputError(f"function_to_apply is {function!r}; expected one of {', '.join(_FUNCTIONS)}.")
    return np.asarray(_FUNCTIONS[name](log_probs))


def _softmax(values: Float32[np.ndarray, " classes"]) -> Float32[np.ndarray, " classes"]:
    shifted = np.exp(values - values.max())
    return np.asarray(shifted / shifted.sum())


_FUNCTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "sigmoid": lambda values: 1 / (1 + np.exp(-values)),
    "none": lambda values: values,
}
