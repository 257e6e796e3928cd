"""The folder that is attacked: a sweep with soups, pools, a cascade and images, small and real, all paths relative."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet

from tests.makers.pile import NAMES, label, make_sweep
from tests.makers.tiny import tiny_bert, tiny_vit

CANARY = "code-was-run"  # the file that hostile code would write
RUNS = 3


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {CANARY}",)


def build(world: Path) -> Path:
    """Everything, made by the commands themselves; the working directory is `world` meanwhile."""
    from hf_soups.batch_predict import predict_rows
    from hf_soups.cooking import cook
    from hf_soups.data import load_splits
    from hf_soups.diagnosis import diagnose
    from hf_soups.finetune.start import make_start
    from hf_soups.leaderboard import build_leaderboard
    from hf_soups.leaderboard.shifts import answer
    from hf_soups.leaderboard.table import keep_with_soups
    from hf_soups.pool.predict import predict_pool
    from hf_soups.pool_jobs import build_from, search_pool
    from hf_soups.recipe import load_recipe
    from hf_soups.reporting.cards.card import write_card

    world.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(world)
    try:
        make_sweep(Path(), models=RUNS)
        cook(["sweep"], methods=("uniform", "greedy"), out=Path("soups"))
        board = build_leaderboard(Path("sweep"), resamples=20)
        board.save("sweep")
        keep_with_soups(board, Path("sweep"))
        diagnose(["sweep"], None, points=1, grid=0)
        small = label(tiny_bert("small", hidden_size=16, num_hidden_layers=1), NAMES)
        for split in ("select", "report"):
            predict_pool([str(small), "soups/greedy"], recipe="pile/recipe.yaml", split=split, out=f"preds/{split}")
        predict_pool([str(small)], recipe="pile/recipe.yaml", split="report", out="tops", top_k=1)
        frontier = search_pool(Path("preds/select"), report="preds/report", folds=2).frontier
        cascade = max(range(len(frontier)), key=lambda i: (len(frontier.plans[i].members), frontier.plans[i].score))
        build_from(f"preds/select/frontier.json#{cascade}", Path("cascade"))
        for folder in (Path("soups/greedy"), Path("cascade")):
            write_card(folder)
        _tables()
        _images()
        Path("shift").mkdir()
        shutil.copy("rows.csv", "shift/test.csv")
        answer(["sweep"], overrides={"task.shifts.other": {"path": "shift", "split": "test"}})
        predict_rows("cascade", data="rows.csv", out=Path("answers"), shard_rows=8)
        Path("answers/part-000001.parquet").unlink()
        recipe = load_recipe("pile/recipe.yaml")
        make_start(recipe, load_splits(recipe.task, recipe.data), Path("start"))
        learned_state().save(Path("learned.json"), "key")
        _adapter(Path("pile/start"), Path("adapter"))
        _sharded(Path("sweep/run_00"), Path("sharded"))
        for folder in ("sweep/run_01", "soups/greedy", "cascade/member_0", "cascade", "vit", "sharded"):
            plant(Path(folder))
    finally:
        os.chdir(before)
    return world


def plant(folder: Path) -> None:
    """Code beside a checkpoint, which nothing may ever run."""
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(_Hostile()))
    for name in ("modeling_hostile.py", "configuration_hostile.py"):
        (folder / name).write_text(f"open({CANARY!r}, 'w')\nclass Hostile: ...\n")


def learned_state() -> Any:
    import numpy as np

    from hf_soups.soups.methods.learned.coefficients import AdamW, State

    return State(np.arange(4.0), AdamW.of(4, 0.1), (0.5, 0.5))


def _adapter(base: Path, out: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base)
    about = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS", modules_to_save=["classifier"])
    get_peft_model(model, about).save_pretrained(out)


def _tables() -> None:
    table = pyarrow.csv.read_csv("pile/data/validation.csv").slice(0, 20)
    pyarrow.parquet.write_table(table, "rows.parquet")
    pyarrow.csv.write_csv(table, "rows.csv")


def _images() -> None:
    import numpy as np
    from PIL import Image

    label(tiny_vit("vit", labels=2), NAMES)
    Path("photos").mkdir()
    random = np.random.default_rng(0)
    for i, ending in enumerate(("png", "jpg", "png", "gif", "webp", "bmp")):
        Image.fromarray(random.integers(0, 255, (40, 32, 3), dtype=np.uint8)).save(f"photos/{i}.{ending}")


def _sharded(checkpoint: Path, out: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    shutil.copytree(checkpoint, out, ignore=shutil.ignore_patterns("*.safetensors", "predictions", "run.json"))
    model.save_pretrained(out, max_shard_size="60kB")
