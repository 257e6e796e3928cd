"""The files of a Space that shows the page of a cascade: its app, what it needs to be installed, and examples."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from hf_soups.demo.cascade import BETWEEN, examples_of
from hf_soups.errors import InputError, MissingExtra
from hf_soups.files.onnx import NEEDED as ONNX_NEEDED
from hf_soups.pool.entries import is_cascade, one_model

MODEL = "model"  # the Space's folder that holds the cascade
EXAMPLES = "examples"  # a folder of images; of texts a file
NAME = re.compile(r"[A-Za-z0-9._-]+")  # of a package, at the start of a requirement
PORT = 7860  # where the Hub looks for the page
APP = '''"""The demo of a cascade; the page itself is part of hf_soups."""
{unpacked}
from hf_soups.demo import serve

serve({model}, title={title},{examples} host="0.0.0.0", port={port})
'''
# The Hub installs what requirements.txt names before it copies other files, so no wheel can be named there.
UNPACKED = """
import sys
import zipfile

with zipfile.ZipFile({wheel}) as package:
    package.extractall("package")
sys.path.insert(0, "package")
"""


def space_files(
    cascade: str | Path, *, examples: str | Path | None = None, wheel: str | Path | None = None
) -> dict[str, str | Path]:
    """What a Space needs beside the cascade, which is in its folder "model".

    Args:
        cascade: its folder, or a Hub repo.
        examples: inputs that visitors can take instead of their own, as for `build_page`; they become public.
        wheel: of hf_soups, to be copied into the Space; default: the version that is installed here, from the registry.
    Returns:
        By file name, texts and files to copy: app.py, requirements.txt with the versions that are installed here,
        README.md with the Space's metadata, the examples and the wheel.
    Raises:
        InputError: if it is no cascade, the examples do not fit it, or the wheel is none of hf_soups.
        MissingExtra: if gradio is not installed, whose version the Space is to have.
    """
    checkpoint = one_model(cascade)
    if not is_cascade(checkpoint):
        raise InputError(
            f"{checkpoint}: no cascade, but a model of type {checkpoint.config.get('model_type')!r}. A Space shows a "
            "cascade; build one with hf-soups cascade build."
        )
    name = checkpoint.name.rpartition("/")[2]
    shown = _examples(examples, str(checkpoint.config["kind"])) if examples is not None else {}
    package = None if wheel is None else _checked(Path(wheel).expanduser())
    at = f" examples={json.dumps(next(iter(shown)).partition('/')[0])}," if shown else ""
    unpacked = "" if package is None else UNPACKED.format(wheel=json.dumps(package.name))
    app = APP.format(model=json.dumps(MODEL), title=json.dumps(name), examples=at, unpacked=unpacked, port=PORT)
    return {
        "app.py": app,
        "requirements.txt": _requirements(own=package is None, onnx=_has_onnx(checkpoint.config)),
        "README.md": _readme(name, checkpoint.config),
        **shown,
        **({} if package is None else {package.name: package}),
    }


def _examples(source: str | Path, kind: str) -> dict[str, str | Path]:
    found = examples_of(source, kind)
    if kind == "image":
        return {f"{EXAMPLES}/{i:02d}{Path(path).suffix.lower()}": Path(path) for i, path in enumerate(found)}
    lines = [row if isinstance(row, str) else f" {BETWEEN} ".join(row) for row in found]
    return {f"{EXAMPLES}.txt": "".join(f"{line}\n" for line in lines)}


def _checked(wheel: Path) -> Path:
    """A wheel of hf_soups for any machine."""
    if not wheel.is_file():
        raise InputError(f"{wheel}: no such file. Build it in the source folder: pip wheel --no-deps .")
    fits = wheel.name.startswith("hf_soups-") and wheel.name.endswith("-none-any.whl") and zipfile.is_zipfile(wheel)
    if not fits:
        raise InputError(f"{wheel}: not a wheel of hf_soups; expected one such as hf_soups-0.1.0-py3-none-any.whl.")
    return wheel


def _has_onnx(config: Mapping[str, Any]) -> bool:
    return any(member.get("backend") == "onnx" for member in config["members"])


def _requirements(*, own: bool, onnx: bool) -> str:
    """hf_soups and what it needs, each at the version that is installed here; gradio's is in the Space's metadata."""
    needed = [line for line in requires("hf_soups") or () if "extra ==" not in line]
    names = [found[0] for line in needed if (found := NAME.match(line))] + [*(ONNX_NEEDED if onnx else ())]
    return "".join(map(_pinned, [*(["hf_soups"] if own else []), *names]))


def _pinned(name: str) -> str:
    try:
        return f"{name}=={version(name).partition('+')[0]}\n"  # without "+cpu", which registries do not have
    except PackageNotFoundError:  # of another system
        return ""


def _readme(name: str, config: Mapping[str, Any]) -> str:
    import yaml

    members = [str(member["name"]) for member in config["members"]]
    repos = sorted({str(member["repo"]) for member in config["members"] if member.get("repo")})
    about: dict[str, Any] = {
        "title": name,
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": _gradio(),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "pinned": False,
        "short_description": "Models asked one after another until one is sure",
        "tags": ["hf_soups", "cascade"],
    }
    if repos:
        about["models"] = repos
    return (
        f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---\n\n"
        f"A cascade of {', '.join(members)}: each is asked only where those before it were not sure enough. The page "
        "shows each answer, the member that gave it, what every member said, and what was saved.\n\n"
        f"The cascade is in `{MODEL}/`; to open the same page elsewhere, run `hf-soups demo {MODEL}/`.\n"
    )


def _gradio() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        raise MissingExtra(
            "a Space names the version of gradio that its page was tried with, but gradio is not installed. Run: "
            'pip install "hf_soups[demo]".'
        ) from None
