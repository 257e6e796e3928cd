"""`hf-soups serve` against `serve --address ... --split-members` under the same load, which does not wait for answers.

    python benchmarks/serve_ray.py             # ten seconds a load, two minutes in all
    python benchmarks/serve_ray.py --small     # two seconds a load: checks that the benchmark itself works

The models, images and kinds of load are those of serve.py: random weights, and a threshold where 30% of the rows go on.
First one service in one process (the monolith) with its measured capacity, and Poisson arrivals at 30, 60 and 90% of
it. Then the same arrivals at a service with a replica for each member, on a Ray cluster of two nodes of one core each
on this machine. Printed are p50 and p99, requests without an answer, and the mean batch of each member.
"""

import argparse
import asyncio
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from serve import BATCH, SHARES, Link, capacity, load, made  # noqa: E402 (beside this file)
from transformers.utils import logging  # noqa: E402


@contextmanager
def served(folder: Path, *options: str) -> Iterator[int]:
    """The command in a process of its own; its port."""
    command = [sys.executable, "-m", "hf_soups.cli", "serve", str(folder), "--port", "0", "--max-batch", str(BATCH)]
    server = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        assert server.stdout is not None
        found = next(m for line in server.stdout if (m := re.search(r"http://127\.0\.0\.1:(\d+)/", line)))
        yield int(found[1])
    finally:
        server.terminate()
        server.communicate()


async def loads(port: int, images: Sequence[bytes], seconds: float, most: float | None = None) -> float:
    """Loads at shares of a capacity, which is measured here where none is given."""
    link = Link(port)
    await capacity(link, images, seconds / 4)  # warms up
    own = await capacity(link, images, seconds)
    print(f"  capacity: {own:.0f} answers a second")
    for seed, share in enumerate(SHARES):
        print(f"  {share:.0%}: ", end="", flush=True)
        await load(link, images, share * (most or own), seconds, seed)
    return own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two seconds a load")
    parser.add_argument("--seconds", type=float, help="of each load; default: 10, with --small 2")
    parser.add_argument("--full", action="store_true", help="ViT-Ti and ViT-B shapes at 224 pixels")
    args = parser.parse_args()
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("opencensus") is None:
        print("serve_ray: skipped, since Ray Serve is not installed: pip install 'hf_soups[ray-serve]'")
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    logging.disable_progress_bar()
    from hf_soups.remote.cluster import ray_module
    from tests.remote.conftest import Nodes

    seconds = args.seconds or (2.0 if args.small else 10.0)
    ray_module()
    with tempfile.TemporaryDirectory() as kept:
        _, images = made(Path(kept), args.full)
        both = Path(kept, "both")
        print(f"one process, {os.cpu_count()} CPUs, one of them for the model:", flush=True)
        with served(both) as port:
            most = asyncio.run(loads(port, images, seconds))
        nodes = Nodes()
        for options in ((), ("--split-members",)):
            print(f"the same arrivals, serve --address {' '.join(options)}, two nodes of one core:", flush=True)
            with served(both, "--address", nodes.address, *options) as port:
                asyncio.run(loads(port, images, seconds, most))
        nodes.close()


if __name__ == "__main__":
    main()
