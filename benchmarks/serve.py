"""`hf-soups serve` under load that does not wait for answers: Poisson arrivals at shares of the measured capacity.

    python benchmarks/serve.py --small      # small models, a few seconds a load
    python benchmarks/serve.py --full       # ViT-Ti and ViT-B shapes at 224 pixels, minutes

Weights are random; the threshold lies where 30% of the rows go on. The service is the command in a process of its own,
on all cores but one (--threads); the load comes from this one. First the capacity: answers a second while as many
clients as two batches hold ask one request after another. Then, at 30, 60 and 90% of it, requests leave at random
moments, whether or not earlier ones are answered, and seconds are counted from the moment that a request was to leave.
Printed are p50 and p99, requests without an answer, the mean batch of each member, and the cost of 1,000 answers.
"""

import argparse
import asyncio
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from cascade_runtime import DEFERRED, SHAPES, cascade, member
from PIL import Image
from transformers.utils import logging

from hf_soups.cascades.running.model import CascadeForImageClassification
from hf_soups.data.images import picture

SHARES = (0.3, 0.6, 0.9)
BATCH = 32
ROWS = 64  # different images


class Link:
    """Connections to the service that are kept open and used again."""

    def __init__(self, port: int) -> None:
        self.port, self.idle = port, []

    async def ask(self, path: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """Status and text of an answer."""
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        method = b"POST" if body else b"GET"
        writer.write(
            b"%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%s"
            % (method, path, len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        text = await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
        self.idle.append((reader, writer))
        return int(head.split()[1]), text

    async def counts(self) -> Counter[str]:
        """The service's own counters."""
        lines = (await self.ask(b"/metrics"))[1].decode().splitlines()
        return Counter(
            {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
        )


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def made(folder: Path, full: bool) -> tuple[CascadeForImageClassification, list[bytes]]:
    """A cascade in `folder`/both of two members, and images of which 30% go on."""
    shapes, size = (SHAPES["full"], 224) if full else (SHAPES["small"], 96)
    members = {name: member(folder, name, size, i, shape) for i, (name, shape) in enumerate(shapes.items())}
    random = np.random.default_rng(0)
    images = random.integers(0, random.integers(20, 256, (ROWS, 1, 1, 1)), (ROWS, size, size, 3), dtype=np.uint8)
    alone = cascade({"small": members["small"]}, (), folder / "alone")
    sure = [float(alone(images=[Image.fromarray(image)]).confidences[0]) for image in images]
    both = cascade(members, (float(np.quantile(sure, DEFERRED)),), folder / "both")
    return both, [png(image) for image in images]


def cpu_seconds(process: int) -> float:
    """That it has used; 0 where the system does not say so in /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pace_alone(model: CascadeForImageClassification, images: Sequence[bytes], seconds: float) -> tuple[float, float]:
    """Rows a second, and CPU seconds a row, of the model in full batches without a service: decoded and answered."""
    rows, start, cpu = 0, time.perf_counter(), 0.0
    while rows < 2 * BATCH or time.perf_counter() < start + seconds:
        if rows == BATCH:  # the first batch warms up
            start, cpu = time.perf_counter(), cpu_seconds(os.getpid())
        model.answer([picture(images[i % ROWS], "it") for i in range(rows, rows + BATCH)])
        rows += BATCH
    rows -= BATCH
    return rows / (time.perf_counter() - start), (cpu_seconds(os.getpid()) - cpu) / rows


async def capacity(link: Link, images: Sequence[bytes], seconds: float) -> float:
    """Answers a second while clients ask one request after another."""
    end, answered = time.perf_counter() + seconds, 0

    async def client(number: int) -> None:
        nonlocal answered
        while time.perf_counter() < end:
            await link.ask(b"/", images[(number + answered) % ROWS])
            answered += 1

    start = time.perf_counter()
    await asyncio.gather(*(client(i) for i in range(2 * BATCH)))
    return answered / (time.perf_counter() - start)


async def load(link: Link, images: Sequence[bytes], rate: float, seconds: float, seed: int) -> None:
    """Requests at random moments, so many a second; what became of them."""
    random = np.random.default_rng(seed)
    moments = np.cumsum(random.exponential(1 / rate, max(1, round(rate * seconds))))
    before, start = await link.counts(), time.perf_counter()
    took: list[float] = []
    errors: Counter[str] = Counter()

    async def one(moment: float, image: bytes) -> None:
        await asyncio.sleep(max(0.0, start + moment - time.perf_counter()))
        try:
            status, _ = await link.ask(b"/", image)
        except OSError as error:
            errors[type(error).__name__] += 1
            return
        if status == 200:
            took.append(time.perf_counter() - start - moment)
        else:
            errors[str(status)] += 1

    await asyncio.gather(*(one(moment, images[i % ROWS]) for i, moment in enumerate(moments)))
    told(rate, len(moments), took, errors, await link.counts() - before)


def told(rate: float, asked: int, took: Sequence[float], errors: Counter[str], counts: Counter[str]) -> None:
    middle, high = (f"{1e3 * q:.1f} ms" for q in np.quantile(took, (0.5, 0.99))) if took else ("-", "-")
    batches = []
    for name in ("small", "big"):
        rows, number = (counts[f'hf_soups_batch_rows_{what}{{member="{name}"}}'] for what in ("sum", "count"))
        batches.append(f"{name} {rows / max(1, number):.1f}")
    cost = 1000 * counts['hf_soups_cost_total{unit=""}'] / max(1, counts["hf_soups_rows_total"])
    failed = ", ".join(f"{n} x {why}" for why, n in errors.items()) or "none"
    print(
        f"{rate:.0f} requests a second ({asked}): p50 {middle}, p99 {high}; errors: {failed}; mean batch: "
        f"{', '.join(batches)}; cost of 1,000 answers {cost:.0f} (small alone 1000, both 3000)"
    )


async def measured(
    port: int, process: int, images: Sequence[bytes], seconds: float, alone: tuple[float, float]
) -> None:
    link = Link(port)
    await capacity(link, images, seconds / 4)  # warms up
    cpu, before = cpu_seconds(process), await link.counts()
    most = await capacity(link, images, seconds)
    rows = (await link.counts() - before)["hf_soups_rows_total"]
    cpu = (cpu_seconds(process) - cpu) / rows
    print(
        f"capacity: {most:.0f} answers a second, {most / alone[0]:.2f} of the model alone in full batches; "
        f"CPU ms an answer: {1e3 * cpu:.2f}, the model alone {1e3 * alone[1]:.2f}"
    )
    for seed, share in enumerate(SHARES):
        print(f"{share:.0%}: ", end="")
        await load(link, images, share * most, seconds, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ViT-Ti and ViT-B shapes at 224 pixels")
    parser.add_argument("--small", action="store_true", help="small models, one second a load")
    parser.add_argument("--seconds", type=float, help="of each load; default: 10, with --small 1")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="of the service")
    args = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads of {os.cpu_count()} CPUs, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as kept:
        seconds = args.seconds or (1.0 if args.small else 10.0)
        model, images = made(Path(kept), args.full)
        alone = pace_alone(model, images, seconds)
        command = [sys.executable, "-m", "hf_soups.cli", "serve", str(Path(kept, "both")), "--port", "0"]
        server = subprocess.Popen(
            [*command, "--max-batch", str(BATCH)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        )  # fmt: skip
        try:
            assert server.stdout is not None
            found = next(m for line in server.stdout if (m := re.search(r"http://127\.0\.0\.1:(\d+)/", line)))
            asyncio.run(measured(int(found[1]), server.pid, images, seconds, alone))
        finally:
            server.kill()
            server.communicate()


if __name__ == "__main__":
    main()
