"""Learned soups: seconds a step, memory and gradients, streamed from the files against all models held in memory.

    python benchmarks/learned.py                       8 float32 checkpoints of BERT-base, 438 MB each
    python benchmarks/learned.py --per tensor          a coefficient for each tensor and ingredient
    python benchmarks/learned.py --small --repeats 1   checks that the benchmark itself works; its ratios mean nothing

Stacked is the paper's way: the tensors of all models stacked in memory, mixed by softmax coefficients, autograd through
the mixture, AdamW. Streamed is `hf_soups.learned`, whole: it scores the uniform soup, takes the steps and scores what
it learned. It is run a second time on --many ingredients, which use the same files in turn.

Every run is a process of its own; runs are interleaved and their medians printed. A step is mixing, forward, backward
and the update; the first is not counted. The page cache is warm. Memory is what a run adds to its process at most, the
model included: anonymous pages, and pages of files apart. CPU seconds are those of all threads: on a machine that
others use they tell more than seconds do. Gradients are compared with those of the stacked way in float64, which takes
twice the stacked way's memory for a moment; the benchmark fails where they differ by more than 1e-5 of their length.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from memory import Memory

if TYPE_CHECKING:
    import torch

    from hf_soups.soups.scoring import SoupScorer

CLOSE = 1e-5
SMALL = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, vocab_size=10_000)
RATE = 0.05


def main() -> None:
    options = arguments()
    if options.method is not None:
        print(json.dumps(METHODS[options.method](options)))
        return
    with tempfile.TemporaryDirectory(prefix="learned-", dir=options.folder) as place:
        command(options, place, "make", options.distinct)
        errors = compared(options, place)
        results = interleaved(options, place)
    report(options, results, errors)
    if errors["streamed"] > CLOSE:
        sys.exit("the gradients are not the same: one of the two is wrong")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ingredients", type=int, default=8)
    parser.add_argument("--many", type=int, default=32, help="ingredients of the second streamed run")
    parser.add_argument("--distinct", type=int, default=8, help="different files on disk; used in turn")
    parser.add_argument("--per", choices=("ingredient", "tensor"), default="ingredient")
    parser.add_argument("--rows", type=int, default=32, help="in a batch; the paper's have 256")
    parser.add_argument("--tokens", type=int, default=64, help="in a row")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a model of 3 MB")
    parser.add_argument("--folder", help="where the checkpoints are made; needs distinct x 438 MB")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compared(options: argparse.Namespace, place: str) -> dict[str, float]:
    """How far each gradient is from the stacked one in float64, as a share of the latter's length."""
    found = {
        way: np.array(command(options, place, f"gradient-{way}", options.ingredients)["gradient"])
        for way in ("streamed", "stacked", "exact")
    }
    exact = found.pop("exact")
    return {way: float(np.linalg.norm(g - exact) / np.linalg.norm(exact)) for way, g in found.items()}


def interleaved(options: argparse.Namespace, place: str) -> dict[str, list[dict[str, float]]]:
    runs = [("streamed", options.ingredients), ("stacked", options.ingredients), ("streamed", options.many)]
    results: dict[str, list[dict[str, float]]] = {f"{method} {count}": [] for method, count in runs}
    for turn in range(options.repeats):
        for method, count in runs[turn % len(runs) :] + runs[: turn % len(runs)]:  # no one has a fixed neighbour
            results[f"{method} {count}"].append(command(options, place, method, count))
    return results


def command(options: argparse.Namespace, place: str, method: str, ingredients: int) -> Any:
    kept = ("distinct", "per", "rows", "tokens", "steps", "threads")
    asked = [f"--{name}={getattr(options, name)}" for name in kept] + (["--small"] if options.small else [])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        [sys.executable, __file__, "--method", method, "--place", place, "--ingredients", str(ingredients), *asked],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{method} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def report(options: argparse.Namespace, results: dict[str, list[dict[str, float]]], errors: dict[str, float]) -> None:
    middle = {m: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for m, runs in results.items()}
    shape = "a small BERT" if options.small else "BERT-base"
    print(
        f"{options.ingredients} and {options.many} F32 checkpoints of {shape} ({options.distinct} different files), "
        f"a coefficient per {options.per}, {options.rows} rows of {options.tokens} tokens a step, {options.threads} "
        f"threads, medians of {options.repeats} interleaved runs of {options.steps} steps\n"
    )
    print(f"{'':16}{'s a step':>9}{'range':>16}{'cpu s':>8}{'anonymous MB':>14}{'file MB':>9}")
    for method, run in middle.items():
        seconds = [r["seconds"] for r in results[method]]
        print(
            f"{method:16}{run['seconds']:9.3f}{f'{min(seconds):.3f}-{max(seconds):.3f}':>16}{run['cpu']:8.2f}"
            f"{run['anonymous'] / 1e6:14.1f}{run['file'] / 1e6:9.1f}"
        )
    few, stacked, many = middle.values()
    print(f"\nmemory: {few['anonymous'] / stacked['anonymous']:.2f}x the stacked way's", end="")
    print(f", with pages of files {whole(few) / whole(stacked):.2f}x (bar: 0.50)")
    print(f"memory at {options.many} ingredients: {many['anonymous'] / few['anonymous']:.2f}x that at", end="")
    print(f" {options.ingredients}, with pages of files {whole(many) / whole(few):.2f}x (bar: 1.20)")
    print(f"a step: {few['seconds'] / stacked['seconds']:.2f}x the stacked way's seconds (bar: 1.50)", end="")
    print(f", {few['cpu'] / stacked['cpu']:.2f}x its CPU seconds")
    print(
        f"gradients differ from those of the stacked way in float64 by {errors['streamed']:.1e} of their length", end=""
    )
    print(f" (bar: {CLOSE:.0e}), the stacked way's own in float32 by {errors['stacked']:.1e}")
    print(f"score on select (-nll): learned {few['score']:.4f}, uniform {few['uniform']:.4f}")
    if options.json:
        figures = {"options": vars(options), "medians": middle, "errors": errors}
        options.json.write_text(json.dumps(figures, indent=2, default=str) + "\n")


def whole(run: dict[str, float]) -> float:
    return run["anonymous"] + run["file"]


# One run, in its own process.


def streamed(options: argparse.Namespace) -> dict[str, float]:
    """The whole of `learned`; the time of a step is that between two reports of it."""
    from hf_soups.checkpoint import Checkpoint
    from hf_soups.soups.methods.learned import learned

    prepare(options)
    marks: list[tuple[float, float]] = []
    with Memory() as memory:
        soup = learned(
            [Checkpoint(folder) for folder in folders(options)], scorer(options), per=options.per, epochs=1,
            batch_size=options.rows, rows_at_once=options.rows, learning_rate=RATE, holdout=0, threads=options.threads,
            on_step=lambda _: marks.append(now()),
        )  # fmt: skip
    return {**per_step(marks), **memory.figures(), "score": soup.scores["score"], "uniform": soup.scores["uniform"]}


def stacked(options: argparse.Namespace) -> dict[str, float]:
    """Rows and order as they come: what a step costs does not depend on them."""
    import torch

    prepare(options)
    marks = [now()]
    with Memory() as memory:
        model, stacks = live_model(options), stacked_tensors(options)
        raw = torch.zeros(rows_of_coefficients(options, stacks), options.ingredients, requires_grad=True)
        scale = torch.ones((), requires_grad=True)
        optimizer = torch.optim.AdamW([raw, scale], lr=RATE, weight_decay=0.0)
        ids, labels = rows(options)
        for ids_now, labels_now in zip(ids.split(options.rows), labels.split(options.rows), strict=True):
            optimizer.zero_grad()
            stacked_loss(model, stacks, raw, scale, ids_now, labels_now).backward()
            optimizer.step()
            marks.append(now())
    return {**per_step(marks[1:]), **memory.figures(), "score": 0.0, "uniform": 0.0}


def gradient_streamed(options: argparse.Namespace) -> dict[str, list[float]]:
    import torch

    from hf_soups.checkpoint import Checkpoint
    from hf_soups.soups.methods.learned import coefficients as descent
    from hf_soups.soups.methods.learned.mixture import LiveMixture

    prepare(options)
    model = live_model(options)
    mixture = LiveMixture(model, [Checkpoint(f) for f in folders(options)], threads=options.threads)
    raw = some_coefficients(options, mixture.tensors)
    ids, labels = rows(options)
    with mixture.with_gradients():
        mixture.fill(descent.coefficients("softmax", raw))
        logits = model(input_ids=ids[: options.rows]).logits
        torch.nn.functional.cross_entropy(logits, labels[: options.rows]).backward()
        gradient = descent.gradient("softmax", raw, mixture.products())
    if options.per == "tensor":  # in the order of the names
        gradient = gradient[np.argsort([part.name for part in mixture.learned])]
    return {"gradient": gradient.ravel().tolist()}


def gradient_stacked(options: argparse.Namespace, dtype: str = "float32") -> dict[str, list[float]]:
    import torch

    prepare(options)
    wanted = getattr(torch, dtype)
    stacks = stacked_tensors(options, dtype)
    raw = torch.tensor(some_coefficients(options, len(stacks)), dtype=wanted, requires_grad=True)
    (ids, labels), one = rows(options), torch.ones((), dtype=wanted)
    model = live_model(options).to(wanted)
    stacked_loss(model, stacks, raw, one, ids[: options.rows], labels[: options.rows]).backward()
    assert raw.grad is not None
    gradient = raw.grad.double().numpy()
    if options.per == "tensor":
        gradient = gradient[np.argsort(list(stacks))]
    return {"gradient": gradient.ravel().tolist()}


def stacked_tensors(options: argparse.Namespace, dtype: str = "float32") -> dict[str, torch.Tensor]:
    """Each tensor of all ingredients in one (k, ...), read one file after the other."""
    import torch
    from safetensors import safe_open

    stacks: dict[str, torch.Tensor] = {}
    for i, folder in enumerate(folders(options)):
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_tensor(name)
                if name not in stacks:
                    stacks[name] = torch.empty(options.ingredients, *tensor.shape, dtype=getattr(torch, dtype))
                stacks[name][i] = tensor
    return stacks


def stacked_loss(
    model: torch.nn.Module,
    stacks: dict[str, torch.Tensor],
    raw: torch.Tensor,
    scale: torch.Tensor,
    ids: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    import torch

    coefficients = torch.softmax(raw, dim=1)
    mixed = {
        name: torch.tensordot(coefficients[i if len(raw) > 1 else 0], stack, dims=1)
        for i, (name, stack) in enumerate(stacks.items())
    }
    logits = torch.func.functional_call(model, mixed, (), kwargs={"input_ids": ids}).logits
    return torch.nn.functional.cross_entropy(scale * logits, labels)


def rows_of_coefficients(options: argparse.Namespace, stacks: dict[str, torch.Tensor]) -> int:
    return len(stacks) if options.per == "tensor" else 1


def some_coefficients(options: argparse.Namespace, tensors: int) -> np.ndarray:
    """The same for every tensor, so that the order of names does not matter."""
    row = np.random.default_rng(0).normal(size=(1, options.ingredients)).astype(np.float32).astype(np.float64)
    return np.repeat(row, tensors if options.per == "tensor" else 1, axis=0)


# What both have in common.


def prepare(options: argparse.Namespace) -> None:
    """Imports, which are not measured; the same ones for all methods."""
    import torch

    bert = "transformers.models.bert.modeling_bert"
    for module in ("datasets", "sklearn.metrics", "hf_soups.soups.methods.learned", bert):
        importlib.import_module(module)
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)


def folders(options: argparse.Namespace) -> list[Path]:
    return [options.place / f"ingredient_{i % options.distinct}" for i in range(options.ingredients)]


def live_model(options: argparse.Namespace) -> Any:
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification.from_pretrained(options.place / "ingredient_0").eval()


def rows(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    made, count = torch.Generator().manual_seed(0), options.rows * options.steps
    return (
        torch.randint(5, 10_000, (count, options.tokens), generator=made),
        torch.randint(0, 2, (count,), generator=made),
    )


def scorer(options: argparse.Namespace) -> SoupScorer:
    from datasets import Dataset

    from hf_soups.data import Split
    from hf_soups.metrics import METRICS
    from hf_soups.models.encoder import Encoders
    from hf_soups.models.tokens import EncodedTexts
    from hf_soups.soups.mixing.live import LiveMixer
    from hf_soups.soups.scoring import SoupScorer

    ids, labels = rows(options)
    numbers = np.arange(len(ids), dtype=np.int64)
    offsets = np.arange(len(ids) + 1, dtype=np.int64) * options.tokens
    values = ids.numpy().astype(np.int32).ravel()
    encoded = EncodedTexts(numbers, values, offsets, None, pad=0, pad_type=0, pad_left=False)
    split = Split.of("select", Dataset.from_dict({"row": numbers}), numbers, labels.numpy(), ("a", "b"), "random")
    model = live_model(options)
    return SoupScorer(Encoders(), model, encoded, split, METRICS["nll"], LiveMixer(model), options.rows)


def make(options: argparse.Namespace) -> dict[str, float]:
    """Fine-tunes as far as the arithmetic knows: one random start and small random steps away from it."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    prepare(options)
    torch.manual_seed(0)
    start = BertForSequenceClassification(BertConfig(**SMALL) if options.small else BertConfig())
    with torch.no_grad():
        start.classifier.weight.mul_(20)  # so that answers differ between rows
    weights = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    for i in range(options.distinct):
        with torch.no_grad():
            for name, parameter in start.named_parameters():
                parameter.copy_(weights[name] + 1e-3 * torch.randn_like(parameter))
        start.save_pretrained(options.place / f"ingredient_{i}")
    return {}


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def per_step(marks: list[tuple[float, float]]) -> dict[str, float]:
    """Of the steps after the first."""
    seconds, cpu = np.diff(np.array(marks), axis=0).T
    return {"seconds": float(np.median(seconds)), "cpu": float(np.median(cpu))}


METHODS = {
    "make": make,
    "streamed": streamed,
    "stacked": stacked,
    "gradient-streamed": gradient_streamed,
    "gradient-stacked": gradient_stacked,
    "gradient-exact": partial(gradient_stacked, dtype="float64"),
}

if __name__ == "__main__":
    main()
