"""A classifier exported to ONNX by transformers' exporter, in float32 or with int8 weights, and compared with torch.

A folder of it holds what stock ONNX Runtime loads (model.onnx with its weights beside it), config.json and tokenizer or
image processor, transformers' export.json, and onnx.json, which says what it was made of.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from hf_soups.errors import CheckpointError, HfSoupsError
from hf_soups.files.onnx import FORMAT, GRAPH, RECORD, Int8, OnnxRecord
from hf_soups.files.writing import write_json
from hf_soups.models.classifier import Classifier
from hf_soups.models.inference import evaluating
from hf_soups.models.loading import quiet
from hf_soups.models.onnx_model import load_onnx, require_onnx
from hf_soups.models.readers import ImageReader, text_reader
from hf_soups.models.registry import family_for

if TYPE_CHECKING:
    from hf_soups.checkpoint import Checkpoint
    from hf_soups.models.family import Batch

SAME = 1e-3  # logits of a float32 export may differ by this much from torch's
FAMILIES = ("encoder", "encoder-decoder", "vision", "clip")  # those whose answer is the model's own logits
TRIAL = (
    "A quiet film that stays with you long after it has ended.",
    "No.",
    "It is long, and it is loud, and none of the people in it ever says a thing that anybody would want to remember.",
)
# Attention, gelu and norms stay in float32: their ranges are wide, and they are few of the operations.
QUANTISED = {"dynamic": ["MatMul", "Gemm", "Gather"], "static": ["MatMul", "Gemm", "Conv"]}
LOUD = ("torch.onnx", "onnxscript", "onnx_ir", "root", "torch.export", "torch._dynamo", "torch.fx")


def write_onnx(
    checkpoint: Checkpoint,
    out: Path,
    *,
    kind: str,
    image_size: int | None = None,
    int8: Int8 | None = None,
    calibration: Sequence[Batch] = (),
) -> OnnxRecord:
    """Write a classifier's ONNX form into a new folder.

    Args:
        checkpoint: of the classifier, with a head.
        out: the empty folder to fill; it is made if it is not there.
        kind: what a row is: image, text or text-pair.
        image_size: pixels, instead of the processor's own size.
        int8: "dynamic": weights of matrix products, and activations as they come. "static": weights and activations
            of matrix products and convolutions, by the ranges that `calibration` has. None: float32.
        calibration: batches as the model reads them, of rows like those it will answer.
    Raises:
        MissingExtra: if the extra is not installed.
        CheckpointError: if this kind of model cannot be exported, or the export answers otherwise.
    """
    require_onnx("onnxscript")
    _check(checkpoint, kind)
    family = family_for(checkpoint.config, kind, checkpoint)
    model = Classifier.load(checkpoint, family, kind, image_size=image_size)
    processor: Any = family.processor(checkpoint.processor_folder, image_size=image_size)
    with _quietly():  # the trial's texts may be cut
        trial = _trial(processor, kind)
    record = OnnxRecord(
        parameters=checkpoint.parameters, sha256=checkpoint.sha256(), source=checkpoint.name,
        image_size=_side(trial) if kind == "image" else None,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    with _quietly(), _in_words(checkpoint):
        exported = _exported(model.model, trial)
        exported.save_pretrained(out)
    record = _compared(record, model, out, trial)
    if not record.difference <= SAME:
        raise CheckpointError(
            f"{checkpoint}: its ONNX form answers otherwise: logits differ by {record.difference:.2g}, more than "
            f"{SAME:g}. Nothing was written; keep the PyTorch model."
        )
    if int8 is not None:
        with _quietly(), _in_words(checkpoint):
            _quantised(exported, trial, int8, calibration).save_pretrained(out)
        rows = sum(len(next(iter(batch.values()))) for batch in calibration)
        record = _compared(replace(record, int8=int8, calibrated_on=rows), model, out, trial)
    for path in checkpoint.carried_files():
        if path.name != "config.json":  # the exporter writes that of the model as it was set up
            shutil.copyfile(path, out / path.name)
    if image_size is not None:
        processor.save_pretrained(out)
    return record


def _check(checkpoint: Checkpoint, kind: str) -> None:
    if checkpoint.is_onnx:
        raise CheckpointError(f"{checkpoint}: exported to ONNX already. Name the checkpoint that it was exported from.")
    family = family_for(checkpoint.config, kind, checkpoint)
    if family.name not in FAMILIES:
        raise CheckpointError(
            f"{checkpoint}: answers by {family.name}, which is more than one model's logits, so it cannot be exported "
            "to ONNX. Fine-tune it with a head of its own."
        )


def _trial(processor: Any, kind: str) -> Batch:
    """A few rows of different length, or images of noise, as the model reads them."""
    if kind == "image":
        noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
        return ImageReader(processor).read([Image.fromarray(one) for one in noise]).batch(range(len(noise)))
    texts = [(text, TRIAL[0] if kind == "text-pair" else None) for text in TRIAL]
    return text_reader(processor).read(texts).batch(range(len(texts)))


def _exported(model: Any, trial: Batch) -> Any:
    """In float32, without the operations that ONNX Runtime alone has: they save no time, and some answer otherwise."""
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    return OnnxExporter().export(model.eval(), dict(trial), config=OnnxConfig(dynamic=True))


def _quantised(exported: Any, trial: Batch, int8: Int8, calibration: Sequence[Batch]) -> Any:
    from onnxruntime.quantization import QuantType
    from transformers.exporters.configs import ExportFormat
    from transformers.exporters.quantizers.quantizer_onnxruntime import (
        OnnxRuntimeDynamicConfig,
        OnnxRuntimeQuantizer,
        OnnxRuntimeStaticConfig,
    )

    how: Any = OnnxRuntimeDynamicConfig(op_types_to_quantize=QUANTISED[int8])
    if int8 == "static":
        weights_only = {"MatMulConstBOnly": True}  # attention multiplies activations
        how = OnnxRuntimeStaticConfig(
            op_types_to_quantize=QUANTISED[int8],
            per_channel=True,
            extra_options=weights_only,
            activation_type=QuantType.QUInt8,  # with int8 weights: what x86 has instructions for
        )
    quantizer = OnnxRuntimeQuantizer(how, calibration_dataset=[dict(batch) for batch in calibration])
    (component,) = exported.components.values()
    component.program = quantizer.quantize(component.program, dict(trial), ExportFormat.ONNX)
    return exported


def _compared(record: OnnxRecord, model: Classifier, folder: Path, trial: Batch) -> OnnxRecord:
    """The record, written, with the largest difference of a logit that the form in the folder shows."""
    write_json(folder / RECORD, {"format": FORMAT, **asdict(record)})  # without it nothing is loaded
    record = replace(record, difference=_difference(model, folder, trial))
    write_json(folder / RECORD, {"format": FORMAT, **asdict(record)})
    return record


def _difference(model: Classifier, folder: Path, trial: Batch) -> float:
    """The largest of a logit, of the whole trial batch and of its rows alone."""
    run, largest = load_onnx(folder), 0.0
    with evaluating(model.model):
        for batch in (trial, *({key: value[i : i + 1] for key, value in trial.items()} for i in range(2))):
            torch_logits, onnx_logits = model.family.logits(model.model, batch), run(**batch).logits
            largest = max(largest, float((torch_logits - onnx_logits).abs().max()))
    return largest


def _side(batch: Mapping[str, torch.Tensor]) -> int:
    return int(batch["pixel_values"].shape[-1])


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's notes of its inner steps."""
    levels = {name: logging.getLogger(name).level for name in LOUD}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _in_words(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except HfSoupsError:
        raise
    except Exception as error:  # of torch.export, onnxscript, ONNX Runtime: many kinds
        said = (str(error).strip().splitlines() or [""])[0][:200]
        raise CheckpointError(
            f"{checkpoint}: transformers' exporter cannot export this {checkpoint.config.get('model_type')!r} to "
            f"{GRAPH} ({type(error).__name__}: {said}). Keep the PyTorch model, which works beside ONNX ones."
        ) from error
