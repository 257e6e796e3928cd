"""The smaller ViT, pretrained and fine-tuned in a process of its own, so that both cores of a machine have work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_soups.errors import HfSoupsError
from hf_soups.quickstart.digits import SMALL, write_recipes

# Longer and at higher rates than the large one: with its recipe the small one stayed at 92 % and no cascade gained. At
# twice these rates rounding grew until another CPU's kernels gave another cascade.
SMALL_PRETRAINING = {"learning_rate": 1.5e-3, "epochs": 60}
SMALL_RUN = {"learning_rate": 1.5e-3, "batch_size": 32, "epochs": 40, "mixup": 0.4}
LOG = "small.log"


@contextmanager
def trained_beside(out: Path) -> Iterator[None]:
    """Train it while the block runs, and wait for it at its end.

    Raises:
        HfSoupsError: if no model came out.
    """
    from hf_soups.sweep.executor import ended_by_signals, last_lines

    with ended_by_signals(), (out / LOG).open("wb") as log:
        command = [sys.executable, "-m", "hf_soups.quickstart.small", str(out)]
        training = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
            status = training.wait()
        finally:
            training.kill()
            training.wait()
    if status:
        last = " ".join(last_lines(out / LOG, 1))
        raise HfSoupsError(f"the smaller ViT was not trained: {last or f'exit status {status}'}. See {out / LOG}.")


def train_small(out: Path) -> Path:
    """Pretrain and fine-tune a ViT of half the width and half the layers; the folder of the fine-tune."""
    from hf_soups.finetune import finetune
    from hf_soups.recipe import load_recipe

    folder = out / "small"
    folder.mkdir()
    pretraining, finetuning = write_recipes(folder, out / "digits", SMALL)
    for recipe, train, into in ((pretraining, SMALL_PRETRAINING, "start"), (finetuning, SMALL_RUN, "run")):
        finetune(load_recipe(recipe, {f"train.{key}": value for key, value in train.items()}), folder / into)
    return folder / "run"


if __name__ == "__main__":
    try:
        train_small(Path(sys.argv[1]))
    except HfSoupsError as error:
        sys.exit(str(error))
