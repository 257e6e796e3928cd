"""`cascade-image-classification` and `cascade-text-classification`, used as the stock pipelines are, same answers."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float32
from torch.utils.data import DataLoader
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from hf_soups.cascades.running.model import CascadeModel, CascadeOutput, check_pairs
from hf_soups.data.images import picture
from hf_soups.errors import DataError, InputError
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.models.readers import Pair, RawRows


@dataclass(frozen=True, eq=False)
class Collate:
    """Puts rows together as the first member reads them; it runs in the worker processes where there are any."""

    number: int  # of the first member's reader
    reader: Any
    keeps: bool  # the raw rows too, for members that read them in another way

    def __call__(self, values: Sequence[Any]) -> RawRows:
        """The rows of one batch."""
        encoded = self.reader.read(values)
        return RawRows(values if self.keeps else (), len(values), {self.number: (np.arange(len(values)), encoded)})


class Ahead:
    """The same batches in the same order; the next one is read by a thread while this one is answered.

    What goes wrong with a batch is raised when it is that batch's turn.
    """

    def __init__(self, batches: Iterable[RawRows]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[RawRows]:
        """One pass over all batches."""
        own, end = iter(self._batches), object()
        return iter(_Reading(own, end), end)


class _Reading:
    """Called, it gives what it has read meanwhile, and begins with the next one."""

    def __init__(self, batches: Iterator[RawRows], end: object) -> None:
        self._batches, self._end = batches, end
        self._thread = ThreadPoolExecutor(1, "hf_soups-read")  # it ends when nobody asks any more
        self._waiting = self._next()

    def _next(self) -> Future[Any]:
        return self._thread.submit(next, self._batches, self._end)

    def __call__(self) -> Any:
        waiting = self._waiting
        wait([waiting])
        self._waiting = self._next()
        return waiting.result()


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
        batches: Any = DataLoader(rows, num_workers=workers, batch_size=batch_size, collate_fn=self._collate())
        if sized and not workers and batch_size > 1:  # of a generator no row is asked for before its turn
            batches = Ahead(batches)
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

    def _forward(self, rows: RawRows) -> CascadeOutput:
        answered: CascadeOutput = self.model.run(rows)
        return answered

    def ranked(self, output: Any, top_k: int | None, function: str | None, return_exits: bool) -> list[dict[str, Any]]:
        """Labels and scores of one row, the highest score first; of equal ones the first label first."""
        usual = "softmax" if self.model.problem_type == CLASSIFICATION else "sigmoid"
        scores = applied(output["logits"][0].numpy(), function or usual)
        best = np.argsort(-scores, kind="stable")[:top_k]
        names, about = self.model.config.id2label, self.about_exit(output) if return_exits else {}
        if output.get("abstained") is not None:
            about = {**about, "abstained": bool(output["abstained"][0])}
        if output.get("fell_back") is not None:
            about = {**about, "fell_back": bool(output["fell_back"][0])}
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


MOST_FETCHED = 2**28  # bytes of an image behind a URL
StockImages: Any = transformers.ImageClassificationPipeline  # its signatures are too narrow for what is inherited


class CascadeImageClassificationPipeline(CascadePipeline, StockImages):  # type: ignore[misc]
    """Image classification by a cascade.

    Takes URLs, paths, PIL images and arrays of 8-bit values, one or a list, generator or data set of them; `top_k`
    (default 5), `function_to_apply`, `timeout`, `batch_size` and `num_workers` are as in the stock pipeline.
    `return_exits=True` adds "exit" (stage), "members" (that the row met) and "cost" to each answer; a cascade that
    abstains (`Plan.abstain`) adds "abstained": whether a human should be asked.
    """

    stock_task = "image-classification"

    def _sanitize_parameters(
        self, return_exits: bool | None = None, **parameters: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before, during, after = super()._sanitize_parameters(**parameters)
        return before, during, after if return_exits is None else {**after, "return_exits": return_exits}

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:
        """One RGB image, or a large one that is decoded when a member reads it.

        Raises:
            DataError: if it cannot be fetched or read.
        """
        where = f"the image {_told(image)}"
        try:
            return picture(_encoded(image, timeout) if isinstance(image, str) else _array(image), where)
        except DataError:
            raise
        except Exception as error:  # of the network, or of what was given
            raise DataError(f"{where} cannot be read ({str(error)[:200]}).") from error

    def postprocess(
        self,
        model_outputs: Any,
        function_to_apply: Any = None,
        top_k: int = 5,
        return_exits: bool = False,
    ) -> list[dict[str, Any]]:
        """The `top_k` best labels of one row."""
        return self.ranked(model_outputs, top_k, function_to_apply, return_exits)


def _encoded(image: str, timeout: float | None) -> str | bytes:
    """The path of a file, or what a URL or base64 text stands for: the texts that the stock pipeline takes."""
    if image.startswith(("http://", "https://")):
        return _fetched(image, timeout)
    if os.path.isfile(image):  # noqa: PTH113 (False for what is too long to be a path)
        return image
    text = image.split(",", 1)[1] if image.startswith("data:image/") else image
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ValueError("no such file, no URL and no base64 text") from error


def _fetched(url: str, timeout: float | None) -> bytes:
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client's own, whichever package it is

    fetched = bytearray()
    with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as answer:
        answer.raise_for_status()
        for part in answer.iter_bytes():
            fetched += part
            if len(fetched) > MOST_FETCHED:
                raise ValueError(f"more than {MOST_FETCHED:,} bytes")
    return bytes(fetched)


def _array(image: Any) -> Any:
    """Arrays and tensors with their channels last; other things as they are."""
    if not isinstance(image, np.ndarray | torch.Tensor):
        return image
    values = np.asarray(image)
    if values.dtype != np.uint8:
        raise ValueError(f"an array of {values.dtype}; expected 8-bit values, 0 to 255")
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3):
        values = values.transpose(1, 2, 0)
    return values


def _told(image: Any) -> str:
    if isinstance(image, str):
        return image if len(image) <= 200 else f"{image[:60]}... ({len(image)} characters)"
    return f"given as {type(image).__name__}"


StockTexts: Any = transformers.TextClassificationPipeline  # its signatures are too narrow for what is inherited


class CascadeTextClassificationPipeline(CascadePipeline, StockTexts):  # type: ignore[misc]
    """Text classification by a cascade, of single texts or of pairs.

    Takes texts, or {"text": ..., "text_pair": ...}, one or a list, generator or data set of them; `top_k` (default: the
    best one, not in a list), `function_to_apply`, `batch_size` and `num_workers` are as in the stock pipeline. Texts
    are cut where the cascade's config says. `return_exits=True` adds "exit" (stage), "members" (that the row met) and
    "cost" to each answer.
    """

    stock_task = "text-classification"

    def _sanitize_parameters(
        self, return_exits: bool | None = None, truncation: Any = True, **parameters: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        # evaluators ask for truncation, which a cascade does anyway; what else changes the tokens would change exits
        unknown = sorted(set(parameters) - {"top_k", "function_to_apply"})
        if unknown or not truncation:
            raise InputError(
                f"{', '.join(unknown) or 'truncation=False'}: a cascade tokenises as it did when its thresholds were "
                "chosen (`max_length` in its config). Leave it out."
            )
        _, during, after = super()._sanitize_parameters(**parameters)
        return {}, during, after if return_exits is None else {**after, "return_exits": return_exits}

    def preprocess(self, inputs: Any) -> Pair:
        """One text, or one pair.

        Raises:
            InputError: if it is neither, or not what this cascade takes.
        """
        first, second = _pair(inputs)
        if not isinstance(first, str) or not isinstance(second, str | None):
            raise InputError(f"got {inputs!r:.100}; expected a text, or a dictionary of 'text' and 'text_pair'.")
        check_pairs([(first, second)], self.model.kind)
        return first, second

    def postprocess(
        self,
        model_outputs: Any,
        function_to_apply: Any = None,
        top_k: int | None = 1,
        _legacy: bool = True,
        return_exits: bool = False,
    ) -> Any:
        """The best label of one row, or a list of the `top_k` best where that was asked for."""
        answers = self.ranked(model_outputs, top_k, function_to_apply, return_exits)
        return answers[0] if _legacy and top_k == 1 else answers


def _pair(inputs: Any) -> tuple[Any, Any]:
    if isinstance(inputs, Mapping):
        return inputs.get("text"), inputs.get("text_pair")
    if isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], list) and len(inputs[0]) == 2:
        return inputs[0][0], inputs[0][1]  # the stock pipeline's older form of a pair
    return inputs, None
