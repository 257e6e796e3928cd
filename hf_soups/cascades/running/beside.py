"""What a cascade's folder holds beside config.json and members: what the stock pipelines load, and code if wanted."""

from __future__ import annotations

import shutil
from pathlib import Path

from hf_soups.cascades.running.stored import (
    CODE_FILE,
    PROCESSOR_FILE,
    TOKENIZER_FILE,
    TOKENIZER_MAP,
)
from hf_soups.files.writing import write_json

SOURCE = Path(__file__).with_name(CODE_FILE)  # what is written is what the package's own classes are held against


def write_beside(folder: Path, kind: str, *, code: bool) -> None:
    """Write the processor's or the tokenizer's config where one is needed, and with `code` what runs a cascade.

    A cascade of texts needs no file of its own after `import hf_soups`; without it, one must name the code.
    """
    if kind == "image":  # with code, config.json names the processor
        write_json(folder / PROCESSOR_FILE, {} if code else {"image_processor_type": "CascadeImageProcessor"})
    elif code:
        write_json(folder / TOKENIZER_FILE, {"auto_map": TOKENIZER_MAP})
    if code:
        shutil.copyfile(SOURCE, folder / CODE_FILE)


def is_our_code(file: Path) -> bool:
    """Whether a file of code in a cascade's folder is what this version writes under that name."""
    return file.read_bytes() == SOURCE.with_name(file.name).read_bytes()
