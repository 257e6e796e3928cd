"""What imports and `--help` cost, interleaved in one run: medians of fresh processes.

    python benchmarks/imports.py [--runs 5]

Bars: `hf-soups --help` under 0.5 s; `import hf_soups` adds little to `import transformers`.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    beside = Path(sys.executable).with_name("hf-soups")
    program = str(beside) if beside.exists() else shutil.which("hf-soups")
    if program is None:
        sys.exit("hf-soups is not installed: pip install -e .")
    commands = {
        "python (empty)": [sys.executable, "-c", "pass"],
        "hf-soups --help": [program, "--help"],
        "import hf_soups": [sys.executable, "-c", "import hf_soups"],
        "import transformers": [sys.executable, "-c", "import transformers"],
        "import transformers, hf_soups": [sys.executable, "-c", "import transformers, hf_soups"],
    }
    for command in commands.values():  # warm the file cache
        seconds(command)
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            taken[name].append(seconds(command))
    median = {name: statistics.median(values) for name, values in taken.items()}
    for name, value in median.items():
        print(f"{name:32} {value:6.3f} s   (min {min(taken[name]):.3f}, max {max(taken[name]):.3f})")
    added = median["import transformers, hf_soups"] - median["import transformers"]
    print(f"hf_soups adds {added:+.3f} s to import transformers ({added / median['import transformers']:+.1%})")


if __name__ == "__main__":
    main()
