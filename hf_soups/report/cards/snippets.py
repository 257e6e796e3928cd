"""The Python code of a card: written for a model, and run against its folder before anyone else runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path, PurePosixPath

from hf_soups.errors import InputError
from hf_soups.weights.temporary import temporary_folder

TIMEOUT = 600.0  # seconds: large cascades are read from slow disks


def snippet_for(
    pipeline_tag: str, name: str, *, cascade: bool, pair: bool = False, ours: bool = False, words: bool = False
) -> str:
    """Python code that classifies one row with a model.

    Args:
        pipeline_tag: "image-classification" or "text-classification".
        name: the model's id, or its folder.
        cascade: it is one.
        pair: it takes pairs of texts.
        ours: its class is one that hf_soups adds to transformers.
        words: it answers with label words.
    """
    if words:
        return _with_words(name, pair)
    image = pipeline_tag == "image-classification"
    row = "image" if image else '"A text to classify."'
    if pair:
        row = '{"text": "A text.", "text_pair": "Another text."}'
    lines = [
        *(["import hf_soups  # so that transformers knows cascades"] if cascade else []),
        *(["import hf_soups  # so that transformers knows this class of models"] if ours else []),
        *(["from PIL import Image"] if image else []),
        "from transformers import pipeline",
        "",
        *(['image = Image.new("RGB", (224, 224))  # put your own here: Image.open(...)'] if image else []),
        f'classify = pipeline("{"cascade-" if cascade else ""}{pipeline_tag}", model={json.dumps(name)})',
        f"print(classify({row}{', return_exits=True' if cascade else ''}))",
    ]
    return "\n".join(lines)


def _with_words(name: str, pair: bool) -> str:
    row = '("A text.", "Another text.")' if pair else '"A text to classify."'
    return (
        "from hf_soups.families.word_classifier import WordClassifier\n\n"
        f"classify = WordClassifier.load({json.dumps(name)})\nprint(classify([{row}]))"
    )


def run_code(code: str, folder: Path, name: str, *, timeout: float = TIMEOUT) -> str:
    """Run code in a process of its own, in a place where `name` is `folder`; what it printed.

    Args:
        code: Python, of a card made here; never of a file that was downloaded.
        folder: of the model.
        name: what the code loads it by.
        timeout: seconds.
    Raises:
        InputError: if it fails, or takes longer.
    """
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(f"{name!r} is no name of a model. Give one such as 'me/my-soup'.")
    with temporary_folder("card") as empty:
        place = Path(empty, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder.resolve(), target_is_directory=True)
        # -P: nothing that lies beside the model is imported
        command = [sys.executable, "-P", "-c", code]
        try:
            done = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise InputError(
                f"{folder}: the code of its card was not done after {timeout:g} seconds. Run it by hand."
            ) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"{folder}: the code of its card fails ({last}). Whoever copies it would meet the same: make the folder "
            "whole again."
        )
    return done.stdout
