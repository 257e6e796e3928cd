"""`python -m tests.attack`: changed files and sudden deaths, by the thousand.

python -m tests.attack --cases 2500 --seed 1            # change files, print counts by kind and end
python -m tests.attack --case 17 --seed 1               # repeat one case
python -m tests.attack --kills 200 --seed 1             # kill commands, run them again, compare
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = {
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "COLUMNS": "200",
}  # fmt: skip


def main() -> int:
    """Parse, build the world once, attack."""
    from tests.attack.commands import KINDS

    ask = argparse.ArgumentParser(
        prog="python -m tests.attack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--cases", type=int, default=0, help="So many changed files.")
    ask.add_argument("--case", type=int, help="Repeat this case alone.")
    ask.add_argument("--kills", type=int, default=0, help="So many sudden deaths.")
    ask.add_argument("--pairs", type=int, default=0, help="So many times two commands at once on one folder.")
    ask.add_argument("--pushes", type=int, default=0, help="So many pushes killed at random moments.")
    ask.add_argument("--hub", action="store_true", help="Run the faults of the Hub too (tests/hub).")
    ask.add_argument("--seed", type=int, default=0, help="Of everything that is drawn.")
    ask.add_argument("--kind", action="append", choices=list(KINDS), help="Only files of this kind (repeatable).")
    ask.add_argument("--jobs", type=int, default=1, help="Commands side by side.")
    ask.add_argument(
        "--world", type=Path, help="The folder to attack; made if it is not there. Default: a temporary one."
    )
    ask.add_argument("--failures", type=Path, default=Path("attack-failures.jsonl"), help="Where failures are written.")
    told = ask.parse_args()
    with tempfile.TemporaryDirectory(prefix="hf_soups_attack_", ignore_cleanup_errors=True) as place:
        os.environ.update(SETTINGS)
        os.environ["HF_SOUPS_CACHE"] = f"{place}/cache"
        return _attack(told, Path(place))


def _attack(told: argparse.Namespace, place: Path) -> int:
    from tests.attack import cases, faults, inputs, pushes, worker
    from tests.attack.commands import KINDS

    world = (told.world or place / "world").absolute()
    if not world.exists():
        inputs.build(world)
    worker.warm()
    failed = 0
    if told.cases or told.case is not None:
        numbers = range(told.cases) if told.case is None else [told.case]
        failed += cases.attack(
            world, place / "cases", seed=told.seed, numbers=numbers, kinds=told.kind or list(KINDS), jobs=told.jobs,
            failures=told.failures,
        )  # fmt: skip
    if told.kills or told.pairs:
        failed += faults.disturb(
            world, place / "kills", seed=told.seed, kills=told.kills, pairs=told.pairs, jobs=told.jobs
        )
    if told.pushes:
        failed += pushes.pushes(world, place / "pushes", seed=told.seed, count=told.pushes)
    if told.hub:
        failed += subprocess.run([sys.executable, "-m", "pytest", "-m", "", "tests/hub/test_faults.py"]).returncode
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
