"""What imports, `--help` and the commands that read tables cost, interleaved in one run: medians of fresh processes.

    python benchmarks/imports.py [--runs 5] [--quickstart FOLDER]

With the folder of a finished quickstart (`hf-soups quickstart --out FOLDER`) also its tables and its report, made in a
copy. Seconds are of the clock, and CPU is what the process and its children used, user and system.

The demo is ended once its page has been fetched.

Bars: `hf-soups --help` 0.3 s, `leaderboard` on ten runs 1.5 s, `report` and the demo's first page 5 s of CPU, on a
machine on which `import transformers` takes about 0.8 s; `import hf_soups` adds little to it.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

OF_A_QUICKSTART = (
    "leaderboard {job}/runs",
    "compare {job}/runs",
    "compare {job}/runs run_00 run_01",
    "cascade show {job}/preds/select/frontier.json",
    "cascade search {job}/preds/select --report {job}/preds/report",
    "ensemble {job}/preds/select --report {job}/preds/report",
    "inspect {job}/runs",
    "report {job} --out {job}/report.html --overwrite",
    "demo {job}/cascade",
)


def cost(command: list[str]) -> tuple[float, float]:
    """Seconds, and seconds of CPU, of one process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if "demo" in command:
        fetch(command)
    else:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fetch(command: list[str]) -> None:
    """Start what serves a page, fetch it once, and end it at once: members are loaded after that."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        addresses = (word for line in server.stdout for word in line.split() if word.startswith("http://"))
        with urllib.request.urlopen(next(addresses)) as page:
            page.read()
        server.kill()


def commands(program: list[str], job: Path | None) -> dict[str, list[str]]:
    """By the name that is printed."""
    found = {
        "python (empty)": [sys.executable, "-c", "pass"],
        "import transformers": [sys.executable, "-c", "import transformers"],
        "import hf_soups": [sys.executable, "-c", "import hf_soups"],
        "import transformers, hf_soups": [sys.executable, "-c", "import transformers, hf_soups"],
    }
    for words in ("--help", "predict --help", "cook --help"):
        found[f"hf-soups {words}"] = [*program, *words.split()]
    for words in OF_A_QUICKSTART if job is not None else ():
        found["hf-soups " + words.replace("{job}/", "").replace("{job}", "quickstart")] = [
            *program, *(word.format(job=job) for word in words.split())
        ]  # fmt: skip
    return found


def measure(program: list[str], runs: int, job: Path | None) -> None:
    """Print the table."""
    wanted = commands(program, job)
    for command in wanted.values():  # warm the file cache
        cost(command)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for _ in range(runs):
        for name, command in wanted.items():
            taken[name].append(cost(command))
    print(f"{'':76} {'seconds':>8} {'CPU':>6}  {'min, max':>14}")
    for name, costs in taken.items():
        seconds, cpu = ([values[i] for values in costs] for i in (0, 1))
        ends = f"{min(seconds):.3f}, {max(seconds):.3f}"
        print(f"{name:76} {statistics.median(seconds):8.3f} {statistics.median(cpu):6.2f}  {ends:>14}")
    plain, both = (
        statistics.median(seconds for seconds, _ in taken[name])
        for name in ("import transformers", "import transformers, hf_soups")
    )
    print(f"hf_soups adds {both - plain:+.3f} s to import transformers ({(both - plain) / plain:+.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quickstart", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    beside = Path(sys.executable).with_name("hf-soups")
    program = str(beside) if beside.exists() else shutil.which("hf-soups")
    if program is None:
        sys.exit("hf-soups is not installed: pip install -e .")
    with tempfile.TemporaryDirectory() as folder:
        job = None
        if given.quickstart is not None:
            job = Path(shutil.copytree(given.quickstart, Path(folder) / "quickstart"))
        measure([program], given.runs, job)


if __name__ == "__main__":
    main()
