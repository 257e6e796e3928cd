"""How fast checkpoints are merged, and in how much memory: hf_soups, the naive way, mergekit, and the floor.

    python benchmarks/merge.py                      8 float32 checkpoints of BERT-base, 438 MB each
    python benchmarks/merge.py --dtype BF16
    python benchmarks/merge.py --ingredients 72     the files of 8, each used 9 times
    python benchmarks/merge.py --small              seconds; checks that the benchmark itself works
    python benchmarks/merge.py --mergekit ENV/bin/python
    python benchmarks/merge.py --commands --mergekit ENV/bin/python     whole commands, imports and all

Every run is a process of its own; runs are interleaved and their medians printed. Imports are not timed. The floor
reads the same bytes in the same blocks and threads, adds them as integers and writes as many bytes as one checkpoint.
The page cache is warm. CPU seconds are those of all threads: on a machine that others use they tell more than seconds
do. Memory is what a run adds to its process at most: anonymous pages, and pages of files apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory import Memory

METHODS = ("hf_soups", "hf_soups-float32", "naive", "mergekit", "floor")
BLOCK = 512 * 1024
TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def main() -> None:
    options = arguments()
    if options.method is not None:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory(prefix="merge-", dir=options.folder) as place:
        distinct = min(options.ingredients, options.distinct)
        command(sys.executable, options, place, "make")
        if options.commands:
            whole_commands(options, Path(place))
            return
        results = interleaved(options, place)
        size = (Path(place) / "ingredient_0" / "model.safetensors").stat().st_size
    report(options, results, size * options.ingredients, distinct)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ingredients", type=int, default=8)
    parser.add_argument("--distinct", type=int, default=8, help="different files on disk; used in turn")
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), default="F32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="a model of 4 MB")
    parser.add_argument("--mergekit", help="the Python of an environment that has mergekit")
    parser.add_argument("--commands", action="store_true", help="time `hf-soups cook` and `mergekit-yaml` as a whole")
    parser.add_argument("--folder", help="where the checkpoints are made; needs (distinct + 1) x 438 MB")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def interleaved(options: argparse.Namespace, place: str) -> dict[str, list[dict[str, float]]]:
    methods = [m for m in METHODS if m != "mergekit" or options.mergekit]
    results: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    for turn in range(options.repeats):
        for method in methods[turn % len(methods) :] + methods[: turn % len(methods)]:  # no one has a fixed neighbour
            python = options.mergekit if method == "mergekit" else sys.executable
            results[method].append(command(python, options, place, method))
            shutil.rmtree(Path(place) / "out", ignore_errors=True)
    return results


def command(python: str, options: argparse.Namespace, place: str, method: str) -> Any:
    asked = [
        python, __file__, "--method", method, "--place", place, "--ingredients", str(options.ingredients),
        "--distinct", str(options.distinct), "--dtype", options.dtype, "--threads", str(options.threads),
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
    began = time.perf_counter()
    done = subprocess.run(
        [*asked, *(["--small"] if options.small else [])], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"{method} failed:\n{done.stderr}")
    return {**json.loads(done.stdout.splitlines()[-1]), "command_seconds": time.perf_counter() - began}


def whole_commands(options: argparse.Namespace, place: Path) -> None:
    """`hf-soups cook`, with digests not yet and already known, against `mergekit-yaml`; medians, interleaved."""
    folders = [str(place / f"ingredient_{i % options.distinct}") for i in range(options.ingredients)]
    cook = [str(Path(sys.executable).with_name("hf-soups")), "cook", *folders, "--method", "uniform"]
    asked = {"cook, digests unknown": [*cook, "--out"], "cook, digests known": [*cook, "--out"]}
    if options.mergekit:
        models = [{"model": folder, "parameters": {"weight": 1.0}} for folder in folders]
        told = {"merge_method": "linear", "dtype": TORCH_DTYPES[options.dtype], "models": models}
        (place / "merge.yaml").write_text(json.dumps(told))  # JSON is YAML
        asked["mergekit-yaml"] = [
            str(Path(options.mergekit).with_name("mergekit-yaml")), "--no-copy-tokenizer", str(place / "merge.yaml"),
        ]  # fmt: skip
    time.sleep(2.5)  # digests of files that were just written are not remembered
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(options.repeats):
        shutil.rmtree(place / "cache", ignore_errors=True)
        for name, words in asked.items():
            began = time.perf_counter()
            done = subprocess.run(
                [*words, str(place / "out")], capture_output=True, text=True, check=False,
                env={**environment, "HF_SOUPS_CACHE": str(place / "cache")},
            )  # fmt: skip
            seconds[name].append(time.perf_counter() - began)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            shutil.rmtree(place / "out")
    print(
        f"{options.ingredients} {options.dtype} checkpoints, whole commands, medians of {options.repeats} interleaved "
        "runs\n"
    )
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        ratio = f"{middle['mergekit-yaml'] / middle[name]:6.2f}x as fast as mergekit-yaml" if options.mergekit else ""
        print(f"{name:24}{middle[name]:8.2f} s ({min(times):.2f}-{max(times):.2f}) {ratio}")


def report(options: argparse.Namespace, results: dict[str, list[dict[str, float]]], read: int, distinct: int) -> None:
    middle = {m: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for m, runs in results.items()}
    shape = "a small BERT" if options.small else "BERT-base"
    print(
        f"{options.ingredients} {options.dtype} checkpoints of {shape} ({distinct} different files), "
        f"{read / 1e9:.2f} GB read, {options.threads} threads, medians of {options.repeats} interleaved runs\n"
    )
    columns = f"{'seconds':>9}{'range':>16}{'GB/s':>7}{'x floor':>9}{'cpu s':>8}{'anonymous MB':>14}{'file MB':>9}"
    print(f"{'':18}{columns}{'command s':>11}")
    for method, run in middle.items():
        seconds = [r["seconds"] for r in results[method]]
        print(
            f"{method:18}{run['seconds']:9.3f}{f'{min(seconds):.3f}-{max(seconds):.3f}':>16}"
            f"{read / run['seconds'] / 1e9:7.1f}{run['seconds'] / middle['floor']['seconds']:9.2f}"
            f"{run['cpu']:8.2f}{run['anonymous'] / 1e6:14.1f}{run['file'] / 1e6:9.1f}{run['command_seconds']:11.2f}"
        )
    print()
    for peer in ("naive", "mergekit"):
        if peer in middle:
            print(f"hf_soups is {middle[peer]['seconds'] / middle['hf_soups']['seconds']:.2f}x as fast as {peer}")
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), "medians": middle}, indent=2, default=str) + "\n")


# One run, in its own process.


def measured(options: argparse.Namespace) -> dict[str, float]:
    folders = [options.place / f"ingredient_{i % options.distinct}" for i in range(options.ingredients)]
    out = options.place / "out"
    prepare: dict[str, Callable[[], Callable[[], None]]] = {
        "make": lambda: make(options),
        "hf_soups": lambda: ours(folders, out, options.threads, None),
        "hf_soups-float32": lambda: ours(folders, out, options.threads, "float32"),
        "naive": lambda: naive(folders, out, options.threads),
        "mergekit": lambda: mergekit(folders, out, options),
        "floor": lambda: floor(folders, out, options.threads),
    }
    work = prepare[options.method]()  # imports happen here
    with Memory() as memory:
        began, computed = time.perf_counter(), time.process_time()
        work()
        seconds, computed = time.perf_counter() - began, time.process_time() - computed
    return {"seconds": seconds, "cpu": computed, **memory.figures()}


def ours(folders: list[Path], out: Path, threads: int, accumulate: Any) -> Callable[[], None]:
    from hf_soups.checkpoint import Checkpoint
    from hf_soups.soups.mixing import mix_to_folder

    k = len(folders)
    return lambda: mix_to_folder(
        [Checkpoint(f) for f in folders], [1 / k] * k, out, threads=threads, accumulate=accumulate
    )


def naive(folders: list[Path], out: Path, threads: int) -> Callable[[], None]:
    """What a script does that loads all, averages tensor by tensor in float32 and saves."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(threads)

    def work() -> None:
        loaded = [load_file(folder / "model.safetensors") for folder in folders]
        mean = {}
        for name, first in loaded[0].items():
            total = first.to(torch.float32, copy=True)
            for other in loaded[1:]:
                total += other[name]
            mean[name] = (total / len(loaded)).to(first.dtype)
        out.mkdir()
        save_file(mean, out / "model.safetensors", metadata={"format": "pt"})

    return work


def mergekit(folders: list[Path], out: Path, options: argparse.Namespace) -> Callable[[], None]:
    import torch
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    torch.set_num_threads(options.threads)
    config = {
        "merge_method": "linear",
        "dtype": TORCH_DTYPES[options.dtype],
        "models": [{"model": str(folder), "parameters": {"weight": 1.0}} for folder in folders],
    }
    asked = MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(config)))
    return lambda: run_merge(asked, str(out), MergeOptions(copy_tokenizer=False, quiet=True))


def floor(folders: list[Path], out: Path, threads: int) -> Callable[[], None]:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    files = [os.open(folder / "model.safetensors", os.O_RDONLY) for folder in folders]
    size = os.fstat(files[0]).st_size
    start = 8 + int.from_bytes(os.pread(files[0], 8, 0), "little")  # where the tensors begin

    def buffer() -> Any:  # from the start of a page: into NumPy's own arrays the kernel copies half as fast
        room = np.empty(BLOCK + 4096, np.uint8)
        page = -room.ctypes.data % 4096
        return room[page : page + BLOCK].view(np.uint32)

    def worker(first: int, target: int) -> None:
        total, block = buffer(), buffer()
        for at in range(start + first * BLOCK, size, threads * BLOCK):
            count = min(BLOCK, size - at)
            os.preadv(files[0], [total.data.cast("B")[:count]], at)
            for file in files[1:]:
                os.preadv(file, [block.data.cast("B")[:count]], at)
                np.add(total, block, out=total)
            os.pwrite(target, total.data.cast("B")[:count], at)

    def work() -> None:
        out.mkdir()
        target = os.open(out / "model.safetensors", os.O_WRONLY | os.O_CREAT)
        os.ftruncate(target, size)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(worker, range(threads), [target] * threads))
        os.close(target)

    return work


def make(options: argparse.Namespace) -> Callable[[], None]:
    """Fine-tunes as far as the arithmetic knows: one random start and small random steps away from it."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    small = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, vocab_size=10_000)

    def work() -> None:
        config = BertConfig(**small) if options.small else BertConfig()
        model = BertForSequenceClassification(config)
        model.to(getattr(torch, TORCH_DTYPES[options.dtype]))
        for i in range(min(options.ingredients, options.distinct)):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1e-3 * torch.randn_like(parameter))
            model.save_pretrained(options.place / f"ingredient_{i}")

    return work


if __name__ == "__main__":
    main()
