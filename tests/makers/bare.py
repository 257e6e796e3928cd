"""An environment without hf_soups, made in a second: it finds everything else where this one has it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path


def bare_python(place: Path) -> Path:
    """The Python of a new environment.

    A line of a .pth adds this environment's packages; .pth files among these, by which hf_soups is installed here as
    editable, are not followed from there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    inside = sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)})
    Path(inside, "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin" / "python"


def bare_environment(home: Path) -> dict[str, str]:
    """Environment variables for it: nothing of this repository, nothing of this user's cache, no network."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**own, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
