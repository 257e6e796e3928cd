"""The files that make a Space of a cascade: the same page, served by the Hub."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hf_soups.batch.models import is_cascade, one_model
from hf_soups.errors import InputError, MissingExtra

MODEL = "model"  # the Space's folder that holds the cascade
SPACE_PORT = 7860  # where the Hub looks for the page
APP = '''"""The demo of a cascade; the page itself is part of hf_soups."""

from hf_soups.demo import serve

serve({model}, title={title}, host="0.0.0.0", port={port})
'''


def space_files(cascade: str | Path) -> dict[str, str]:
    """What a Space needs beside the cascade, which lies in its folder "model".

    Args:
        cascade: its folder, or a Hub repo.
    Returns:
        Texts by file name: app.py, requirements.txt and README.md with the Space's metadata.
    Raises:
        InputError: if it is no cascade.
        MissingExtra: if gradio is not installed, whose version the Space is to have.
    """
    checkpoint = one_model(cascade)
    if not is_cascade(checkpoint):
        raise InputError(
            f"{checkpoint}: no cascade, but a model of type {checkpoint.config.get('model_type')!r}. A Space shows a "
            "cascade; build one with hf-soups cascade build."
        )
    name = checkpoint.name.rpartition("/")[2]
    return {
        "app.py": APP.format(model=json.dumps(MODEL), title=json.dumps(name), port=SPACE_PORT),
        "requirements.txt": f"hf_soups[demo]>={version('hf_soups')}\n",
        "README.md": _readme(name, checkpoint.config),
    }


def _readme(name: str, config: Any) -> str:
    import yaml

    members = [str(member["name"]) for member in config["members"]]
    repos = sorted({str(member["repo"]) for member in config["members"] if member.get("repo")})
    about: dict[str, Any] = {
        "title": name,
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": _gradio(),
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
        "shows every answer with the member that it left at, what each member said, and what was saved.\n\n"
        f"The cascade lies in `{MODEL}/`; the same page opens elsewhere with `hf-soups demo {MODEL}/`.\n"
    )


def _gradio() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        raise MissingExtra(
            "a Space names the version of gradio that its page was tried with, but gradio is not installed. Run: "
            'pip install "hf_soups[demo]".'
        ) from None
