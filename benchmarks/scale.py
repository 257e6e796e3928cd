"""Batch predict on a cluster: rows a second, batches, bytes and the time after a kill; and a simulation of 64 nodes.

    python benchmarks/scale.py            a cluster of two nodes on this machine; members that wait instead of computing
    python benchmarks/scale.py --small    one run of seconds: checks that the benchmark itself works
    python benchmarks/scale.py --sizing   the simulation alone, with the overheads of results/scale.md: a table

Members need numpy alone and wait a fixed time for each row (the large one three times as long), so the two nodes do not
fight for the cores and what is measured is the way of the parts: Ray Data, files, reading rows again. The one process
answers the same parts, member after member. The time to start workers is in the cluster's seconds, and shown apart.

The simulation takes the measured overhead of a part and member, and the seconds of rows as given. It is checked first
against what was measured here with the same workers.
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
OVERHEAD, CENTRAL = 0.09, 0.027  # seconds, as measured: results/scale.md
UNITS = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Run:
    """What one run on the cluster took."""

    seconds: float
    until_first: float  # for workers to start
    batch: float  # of the large member, on average
    moved: float  # bytes a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--ms", type=float, default=2.0, help="of a row, in the small member")
    parser.add_argument("--deferral", type=float, nargs="+", default=[0.05, 0.2, 0.5], help="shares of the rows")
    parser.add_argument(
        "--sizing", action="store_true", help="--ms of a row in the small member, --large-ms in the large"
    )
    parser.add_argument("--large-ms", type=float, default=10.0)
    options = parser.parse_args()
    if options.sizing:
        sizing((options.ms / 1000, options.large_ms / 1000), options.deferral)
        return
    if importlib.util.find_spec("ray") is None:
        print("scale: skipped, since ray is not installed: pip install 'hf_soups[ray]'")
        return
    os.environ["PYTHONPATH"] = str(ROOT)
    from hf_soups.remote.cluster import connected, ray_module
    from tests.remote.conftest import Nodes

    ray_module()
    nodes = Nodes()
    with connected(nodes.address) as cluster, tempfile.TemporaryDirectory(prefix="hf_soups-scale-") as place:
        if options.small:
            show(0.2, 1, 1000, 0.0005, *measured(cluster, Path(place) / "small", 0.2, 1, 1000, 0.0005))
        else:
            whole(cluster, Path(place), options.deferral, options.rows, options.ms / 1000)
    nodes.close()


def whole(cluster: object, place: Path, deferrals: Sequence[float], rows: int, seconds: float) -> None:
    overheads = []
    for deferral in deferrals:
        for workers in (1, 2):
            found = measured(cluster, place / f"{deferral}-{workers}", deferral, workers, rows, seconds)
            show(deferral, workers, rows, seconds, *found)
            run = found[1]
            parts, work = rows // 500, run.seconds - run.until_first
            ideal = simulated(parts, 500, deferral, (seconds, 3 * seconds), (workers, workers), 0.0)
            overheads.append(max(0.0, (work - ideal) / parts * workers))
            print(f"  simulated without overhead {ideal:.1f} s, measured {work:.1f} s: {overheads[-1]:.3f} s a part")
    overhead = statistics.median(overheads)
    print(
        f"from a kill of the large member's only worker to its next batch: {after_kill(cluster, place, seconds):.1f} s"
    )
    central = handing_out(cluster, place)
    print(f"handing out a part: {central:.3f} s at most")
    print(f"simulated, 64 nodes of 8 workers, 10^9 rows, 1 and 10 ms a row, {overhead:.3f} s a part and worker:")
    for size in (4096, 32768):
        for deferral in (0.05, 0.2, 0.5):
            shares = np.array([1.0, 10 * deferral])
            large = max(1, round(512 * shares[1] / shares.sum()))
            took = simulated(10**9 // size, size, deferral, (0.001, 0.01), (512 - large, large), overhead, central)
            ideal = 10**9 * (0.001 + 0.01 * deferral) / 512
            print(f"  parts of {size}, deferral {deferral:.0%}: {took / 3600:.2f} h, models alone {ideal / 3600:.2f} h")


def measured(
    cluster: object, place: Path, deferral: float, workers: int, rows: int, seconds: float
) -> tuple[float, Run]:
    """Seconds of one process, and the cluster's run."""
    from hf_soups.remote.answers import RayAnswers
    from tests.makers.fake_parts import answer_serially, fake_job

    place.mkdir()
    how = {"rows": rows, "seconds": seconds, "size": min(500, rows // 4), "deferral": deferral}
    alone = fake_job(place / "alone", place / "alone.log", **how)
    started = time.perf_counter()
    answer_serially(alone)
    one = time.perf_counter() - started
    job = fake_job(place / "ray", place / "ray.log", **how)
    job.files.folder.mkdir()
    executor = RayAnswers(cluster, {"small": workers, "large": workers})
    began, started = time.time(), time.perf_counter()
    executor.answer(job, lambda done: None)
    took = time.perf_counter() - started
    lines = [line.split() for line in (place / "ray.log").read_text().splitlines()]
    large = [int(count) for name, _, count, _ in lines if name == "large"]
    first = min(float(at) for *_, at in lines) - began
    return one, Run(took, first, statistics.mean(large or [0]), executor.moved_bytes / rows)


def show(deferral: float, workers: int, rows: int, seconds: float, alone: float, run: Run) -> None:
    steady = rows / (run.seconds - run.until_first)
    print(
        f"deferral {deferral:.0%}, {workers} worker(s) a member: {rows / run.seconds:.0f} rows/s with the start, "
        f"{steady:.0f} after it ({run.until_first:.1f} s); one process {rows / alone:.0f}; large member's batch "
        f"{run.batch:.1f} of 16; {run.moved:.1f} bytes a row",
        flush=True,
    )


def after_kill(cluster: object, place: Path, seconds: float) -> float:
    """Seconds from the death of the large member's only worker to the first batch of the next one."""
    from hf_soups.remote.answers import RayAnswers
    from tests.makers.fake_parts import fake_job

    job, killed = fake_job(place / "killed", place / "killed.log", 4000, seconds=seconds), []
    job.files.folder.mkdir()

    def kill() -> None:
        while len(job.files.present()) < 5:
            time.sleep(0.02)
        lines = [line.split() for line in (place / "killed.log").read_text().splitlines()]
        victim = next(pid for name, pid, *_ in reversed(lines) if name == "large")
        os.kill(int(victim), 9)
        killed.append((victim, time.time()))

    threading.Thread(target=kill, daemon=True).start()
    RayAnswers(cluster, {"small": 1, "large": 1}).answer(job, lambda done: None)
    (victim, at), lines = killed[0], [line.split() for line in (place / "killed.log").read_text().splitlines()]
    return min(float(when) for name, pid, _, when in lines if name == "large" and pid != victim) - at


def handing_out(cluster: object, place: Path) -> float:
    """Seconds a part of many small ones whose rows take no time: of this process, and of the workers beside it."""
    from hf_soups.remote.answers import RayAnswers
    from tests.makers.fake_parts import fake_job

    job, at = fake_job(place / "many", place / "many.log", 6000, size=20), []
    job.files.folder.mkdir()
    RayAnswers(cluster, {"small": 1, "large": 1}).answer(job, lambda done: at.append(time.perf_counter()))
    return (at[-1] - at[50]) / (len(at) - 51)


def sizing(seconds: tuple[float, float], deferrals: Sequence[float]) -> None:
    """How long some numbers of rows take some numbers of workers, in the best of three sizes of parts."""
    print(f"{1000 * seconds[0]:g} ms a row in the small member, {1000 * seconds[1]:g} in the large one;", end=" ")
    print(f"{OVERHEAD:g} s a part and worker, {CENTRAL:g} s to hand one out")
    print("| rows | deferral | workers, small + large | rows of a part | takes | models alone |")
    print("|---|---|---|---|---|---|")
    for rows in (10**6, 10**8, 10**9):
        for deferral in deferrals:
            for workers in (8, 64, 512):
                alone = rows * (seconds[0] + seconds[1] * deferral) / workers
                large = min(workers - 1, max(1, round(rows * seconds[1] * deferral / alone)))
                took, size = min(
                    (
                        simulated(
                            -(-rows // size), size, deferral, seconds, (workers - large, large), OVERHEAD, CENTRAL
                        ),
                        size,
                    )
                    for size in (1024, 4096, 32768)
                )
                print(
                    f"| {rows:.0e} | {deferral:.0%} | {workers - large} + {large} | {size:,} | {in_time(took)} | "
                    f"{in_time(alone)} |",
                    flush=True,
                )


def in_time(seconds: float) -> str:
    """In the unit that reads best."""
    return next(f"{seconds / unit:.3g} {name}" for unit, name in UNITS if seconds >= unit or unit == 1)


def simulated(
    parts: int,
    size: int,
    deferral: float,
    seconds: tuple[float, float],
    workers: tuple[int, int],
    overhead: float,
    central: float = 0.0,
    seed: int = 0,
) -> float:
    """Seconds until the last of `parts` is written: each goes to a free worker of one member, then of the other.

    They are handed out one after another, `central` seconds each.
    """
    random = np.random.default_rng(seed)
    deferred = random.binomial(size, deferral, parts)
    free: list[list[float]] = [[0.0] * max(1, count) for count in workers]
    ready = []
    for number in range(parts):
        ready.append(max(free[0][0], number * central) + size * seconds[0] + overhead)
        heapq.heapreplace(free[0], ready[-1])
    end = max(ready)
    for at, count in sorted(zip(ready, deferred.tolist(), strict=True)):
        done = max(at, free[1][0]) + count * seconds[1] + overhead
        heapq.heapreplace(free[1], done)
        end = max(end, done)
    return end


if __name__ == "__main__":
    main()
