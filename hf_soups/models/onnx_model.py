"""A classifier that was exported to ONNX, run by ONNX Runtime on the CPU in the place of a torch model."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from hf_soups.errors import CheckpointError, MissingExtra
from hf_soups.files.onnx import AGAIN, FILES, GRAPH, NEEDED, WEIGHTS, OnnxRecord, is_onnx, onnx_files, read_onnx_record
from hf_soups.models.loading import config_of
from hf_soups.models.weightless import Weightless

DOMAINS = {"", "ai.onnx", "com.microsoft", "ai.onnx.ml"}  # of operations that ONNX Runtime brings itself


def require_onnx(*more: str) -> None:
    """Refuse to go on without the extra.

    Raises:
        MissingExtra: naming what is not installed.
    """
    missing = [name for name in (*NEEDED, *more) if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f'ONNX models need {", ".join(missing)}, which is not installed. Run: pip install "hf_soups[onnx]".'
        )


class OnnxModel(Weightless):
    """Answers batches as the torch model did that it was exported from; it has no weights that torch knows.

    Attributes:
        config: of that model.
        record: of the export.
        folder: with its files.
    """

    def __init__(self, folder: Path, config: Any, record: OnnxRecord, session: Any) -> None:
        super().__init__()
        self.config, self.record, self.folder = config, record, folder
        self._session = session
        self._inputs = tuple(one.name for one in session.get_inputs())

    def forward(self, **batch: torch.Tensor) -> Any:
        """The logits of a batch, on the CPU; inputs that the graph does not read are left out.

        Raises:
            CheckpointError: if an input is missing, or the graph refuses the batch.
        """
        missing = [name for name in self._inputs if name not in batch]
        if missing:
            raise CheckpointError(
                f"{self.folder}: the graph reads {', '.join(self._inputs)}, but the batch has no {', '.join(missing)}. "
                f"Its tokenizer or image processor is another one. {AGAIN}"
            )
        feed = {name: np.ascontiguousarray(batch[name].detach().cpu().numpy()) for name in self._inputs}
        try:
            (logits,) = self._session.run(["logits"], feed)
        except Exception as error:  # ONNX Runtime has many kinds
            raise CheckpointError(f"{self.folder}: the graph refuses rows of this shape ({_first(error)}).") from error
        return SimpleNamespace(logits=torch.from_numpy(logits))

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Copy its files into a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(self.folder / name, Path(folder) / name)
        self.config.save_pretrained(folder)


def load_onnx(folder: Path) -> OnnxModel:
    """The exported classifier in a folder.

    Raises:
        MissingExtra: if ONNX Runtime is not installed.
        CheckpointError: if the graph is damaged, names files elsewhere or operations of others, or its logits are not
            as many as config.json has labels.
    """
    require_onnx()
    assert is_onnx(folder)
    record, config = read_onnx_record(folder), config_of(folder)
    onnx_files(folder)
    _check_graph(folder)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    # threads that spin after a batch take the cores from the members that PyTorch runs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has many kinds
        raise CheckpointError(f"{folder / GRAPH}: ONNX Runtime cannot load it ({_first(error)}). {AGAIN}") from error
    found = {one.name: one.shape for one in session.get_outputs()}
    shape = found.get("logits")
    if shape is None or len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != config.num_labels):
        raise CheckpointError(
            f"{folder / GRAPH}: expected an output 'logits' of shape (rows, {config.num_labels}), as config.json has "
            f"labels; it has {found}. {AGAIN}"
        )
    return OnnxModel(folder, config, record, session)


def _check_graph(folder: Path) -> None:
    """The graph's weights must be in the file beside it, and its operations ONNX Runtime's own."""
    import onnx

    path = folder / GRAPH
    try:
        graph = onnx.load(str(path), load_external_data=False)
        places = {
            entry.value
            for part in (graph.graph, *graph.functions)
            for tensor in _tensors(part)
            for entry in tensor.external_data
            if entry.key == "location"
        }
    except Exception as error:  # of protobuf
        raise CheckpointError(f"{path}: no ONNX graph, or a damaged one ({_first(error)}). {AGAIN}") from error
    if places - {WEIGHTS}:
        raise CheckpointError(f"{path}: its weights are in {sorted(places)[0]!r}; nothing but {WEIGHTS} is read.")
    own = DOMAINS | {one.domain for one in graph.functions}
    used = [node for part in (graph.graph, *graph.functions) for node in _nodes(part)]
    foreign = next((node for node in used if node.domain not in own), None)
    if foreign is not None:
        raise CheckpointError(
            f"{path}: it needs {foreign.op_type} of {foreign.domain!r}, which is not loaded: only ONNX Runtime's own "
            "operations are."
        )


def _nodes(graph: Any) -> Iterator[Any]:
    """Operations of a graph or function, and those of graphs inside of them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _tensors(graph: Any) -> list[Any]:
    """Weights, and constants inside of nodes, of a graph or function and the graphs inside of it."""
    found = list(getattr(graph, "initializer", ()))
    for node in _nodes(graph):
        for attribute in node.attribute:
            found += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                found += inner.initializer
    return found


def shadow_of(model: OnnxModel, auto: Any) -> torch.nn.Module:
    """The torch model of the same shape with random weights, to count what it computes."""
    with torch.random.fork_rng(devices=[]):
        made: torch.nn.Module = auto.from_config(model.config).eval()
    return made


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
