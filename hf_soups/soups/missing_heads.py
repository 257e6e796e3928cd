"""Classifiers that lost their head on the way: averaged, they would be a model that answers nothing."""

from __future__ import annotations

import re

from hf_soups.checkpoint import Checkpoint
from hf_soups.files.dtypes import FLOATS
from hf_soups.files.weights import MODULES
from hf_soups.recipe.prompts import WORDS_KEY

CLASSIFIER = re.compile(r"For(\w*Classification\w*|MultipleChoice)$")
TABLE = re.compile(r"embed|token_type|position")  # tables whose first axis is no number of classes


def why_headless(checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint is a classifier without a head; None where it has one, or is meant to have none.

    A head is a tensor with a row for each label. A config of a class without a head (BertModel) that still names labels
    is what `AutoModel.from_pretrained(...).save_pretrained(...)` leaves of a classifier.

    Raises:
        CheckpointError: if config or tensors cannot be read.
    """
    config = checkpoint.config
    names = [str(name) for name in config.get("architectures") or ()]
    classifier = any(CLASSIFIER.search(name) for name in names)
    bare = all(name.endswith("Model") for name in names)
    labelled = checkpoint.label_names is not None or config.get("problem_type") is not None
    encoder = (checkpoint.folder / MODULES).is_file()  # of sentences, which is meant to have none
    if not (classifier or (bare and labelled and not encoder)) or WORDS_KEY in config:
        return None
    labels = len(config.get("id2label") or ()) or config.get("num_labels") or 2  # two without names are left out
    rows = (info for name, info in checkpoint.tensors.items() if info.dtype in FLOATS and not TABLE.search(name))
    if any(info.shape[:1] == (labels,) for info in rows):
        return None
    return (
        f"{checkpoint}: a classifier of {labels} labels ({', '.join(names) or 'no class named'}) whose weights hold no "
        "head, so a soup of it could not answer. AutoModel drops the head when it saves: take the original (of pickled "
        "weights: hf-soups convert), or save it again by the class with the head. If it is to have none, remove "
        "id2label and problem_type from its config.json."
    )
