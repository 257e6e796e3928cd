"""Members by PyTorch, compiled PyTorch and ONNX Runtime, in float32 and int8: seconds side by side, and answers.

    python benchmarks/members.py                     # BERT-base and ViT-S shapes, batches of 1 and 32; minutes
    python benchmarks/members.py --small             # tiny shapes, no torch.compile; seconds
    python benchmarks/members.py --real POOL         # scores of a pool's members against the first's, with intervals

Shapes have random weights, texts have 64 tokens, images 224 pixels. Timed in turns, round by round; printed are medians
of milliseconds a row, and the median of each round's ratio to eager PyTorch (more is faster), by the clock and by the
process's own CPU time; with --threads 1 the latter says the same on a machine that does other things too. Seconds of
exporting and of compiling are not among them. A pool for --real is what `hf-soups predict` wrote for models and their
exports; the first member by name of each group NAME, NAME-... is what the others are held against.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hf_soups.checkpoint import Checkpoint
from hf_soups.models.cost_counting import hardware_name
from hf_soups.models.onnx_export import write_onnx
from hf_soups.models.onnx_model import load_onnx
from hf_soups.pool import read_pool

SHAPES: dict[str, dict[str, dict[str, int]]] = {
    "small": {
        "bert": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64),
        "vit": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32),
    },
    "full": {
        "bert": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
        "vit": dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536),
    },
}
TOKENS = 64
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(ord("a") + i) for i in range(26))]


def checkpoint(kind: str, shape: dict[str, int], folder: Path) -> Checkpoint:
    """A model of a shape with random weights, and what reads its rows."""
    torch.manual_seed(0)
    if kind == "bert":
        BertForSequenceClassification(BertConfig(**shape)).save_pretrained(folder)
        vocabulary = folder / "words.txt"
        vocabulary.write_text("\n".join(WORDS))
        BertTokenizer(str(vocabulary)).save_pretrained(folder)
    else:
        config = ViTConfig(**shape)
        ViTForImageClassification(config).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": config.image_size, "width": config.image_size}).save_pretrained(folder)
    return Checkpoint(folder)


def batch_of(kind: str, rows: int, side: int) -> dict[str, torch.Tensor]:
    """Rows as the model reads them."""
    if kind == "vit":
        return {"pixel_values": torch.randn(rows, 3, side, side)}
    ids = torch.randint(5, len(WORDS), (rows, TOKENS))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def ways(kind: str, source: Checkpoint, side: int, compiled: bool, into: Path) -> dict[str, Callable[[Any], Any]]:
    """What answers a batch, by name."""
    auto = BertForSequenceClassification if kind == "bert" else ViTForImageClassification
    model = auto.from_pretrained(source.folder).eval()
    found: dict[str, Callable[[Any], Any]] = {"eager": lambda batch: model(**batch).logits}
    if compiled:
        fast = torch.compile(model)
        found["compiled"] = lambda batch: fast(**batch).logits
    task = "text" if kind == "bert" else "image"
    calibration = [batch_of(kind, 4, side) for _ in range(4)]
    forms: dict[str, dict[str, Any]] = {
        "onnx": {},
        "int8 dynamic": {"int8": "dynamic"},
        "int8 static": {"int8": "static", "calibration": calibration},
    }
    for name, form in forms.items():
        write_onnx(source, into / name, kind=task, **form)
        found[name] = _runs(into / name)
    return found


def _runs(folder: Path) -> Callable[[Any], Any]:
    session = load_onnx(folder)
    return lambda batch: session(**batch).logits


def timed(
    answers: dict[str, Callable[[Any], Any]], batch: dict[str, torch.Tensor], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds by the clock and of the CPU, of each way in each round, after two rounds whose time does not count."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in answers}
    with torch.inference_mode():
        for _ in range(rounds + 2):
            for name, answer in answers.items():
                started, used = time.perf_counter(), time.process_time()
                answer(batch)
                took[name].append((time.perf_counter() - started, time.process_time() - used))
    return {name: seconds[2:] for name, seconds in took.items()}


def shapes(small: bool, rounds: int) -> None:
    """Print seconds of each way for each shape."""
    print(f"{hardware_name(torch.device('cpu'))}; torch {torch.__version__}, Python {platform.python_version()}")
    for kind, shape in SHAPES["small" if small else "full"].items():
        side = shape.get("image_size", 224)
        with tempfile.TemporaryDirectory() as place:
            source = checkpoint(kind, shape, Path(place, "model"))
            answers = ways(kind, source, side, not small, Path(place))
            for rows in (1, 32):
                took = timed(answers, batch_of(kind, rows, side), rounds if rows == 1 else max(3, rounds // 3))
                for name, seconds in took.items():
                    pairs = list(zip(took["eager"], seconds, strict=True))
                    clock, cpu = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
                    own = 1000 * statistics.median(wall for wall, _ in seconds) / rows
                    line = f"{kind:4} batch {rows:2}  {name:12} {own:8.2f} ms a row  {clock:5.2f}x  cpu {cpu:5.2f}x"
                    print(line, flush=True)


def scores(folder: Path) -> None:
    """Print accuracy of each member with its interval, and the difference to the model that it was exported from."""
    from hf_soups.metrics import score
    from hf_soups.metrics.significance import mcnemar, paired_bootstrap

    pool = read_pool(folder)
    first = {
        name: next(n for n in sorted(pool.members) if name == n or name.startswith(f"{n}-")) for name in pool.members
    }
    for name, own in pool.predictions.items():
        found, base = score(own, "accuracy"), pool.predictions[first[name]]
        test = mcnemar(base, own)
        changed = int((own.answers != base.answers).sum())
        apart = paired_bootstrap(own, base, "accuracy", resamples=2000)
        ends = f"{100 * apart.difference:+.2f} ({100 * apart.low:+.2f} to {100 * apart.high:+.2f})"
        against = "" if name == first[name] else f"  {ends}, {changed} answers changed, p {test.p_value:.2g} (McNemar)"
        print(f"{name:24} {100 * found.value:6.2f} ({100 * found.low:.2f} to {100 * found.high:.2f}){against}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, help="Default: as many as cores.")
    parser.add_argument("--real", type=Path, metavar="POOL")
    given = parser.parse_args()
    if given.real:
        scores(given.real)
    else:
        torch.set_num_threads(given.threads or torch.get_num_threads())
        shapes(given.small, 5 if given.small else given.rounds)


if __name__ == "__main__":
    main()
