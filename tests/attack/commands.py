"""What is attacked: the files of the world by kind, and the commands that read each of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[], object]


@dataclass(frozen=True)
class Command:
    """A command line, or a call from Python, and the paths that it may write."""

    run: str | Run
    writes: tuple[str, ...] = ("out",)

    @property
    def answers(self) -> tuple[str, ...]:
        """Where its answer lies, beside what it prints."""
        return () if callable(self.run) else self.writes

    def __call__(self) -> object:
        """In the working directory, as the command line does; ends by SystemExit."""
        if callable(self.run):
            return self.run()
        from hf_soups.cli import main

        sys.argv = ["hf-soups", *self.run.split()]
        return main()


def _checkpoint() -> object:
    from hf_soups import Checkpoint

    found = []
    for at in ("sweep/run_01", "sharded", "soups/greedy", "vit"):
        checkpoint = Checkpoint(at)
        checkpoint.sha256()  # of whatever lies there
        found.append((at, checkpoint.label_names, checkpoint.head_fingerprint))
    return found


def _predictions() -> object:
    import numpy as np

    from hf_soups import Predictions
    from hf_soups.predictions.topk import load_predictions

    at = "sweep/run_01/predictions/select.safetensors"
    found = Predictions.load(at)
    top = load_predictions("tops/small.safetensors", mapped=False)
    return [np.asarray(p.block(0, 5)).tolist() for p in (found, top)], found.label_names, found.labels


def _pipeline() -> object:
    from transformers import pipeline

    import hf_soups  # noqa: F401 (makes cascades known)

    texts = Path("rows.csv").read_text(encoding="utf-8").splitlines()[1:6]
    pipe = pipeline("cascade-text-classification", model="cascade", batch_size=4)
    return pipe([text.partition(",")[0].strip('"') or "text" for text in texts], return_exits=True)


def _demo() -> object:
    from hf_soups.demo.cascade import load_demo_cascade

    subject = load_demo_cascade("cascade")
    return [subject.follow(["good film", "bad"], plan) for plan in subject.plans[:2]]


def _start() -> object:
    from hf_soups.data import load_splits
    from hf_soups.finetune.start import load_start, make_start
    from hf_soups.recipe import load_recipe

    recipe = load_recipe("pile/recipe.yaml")
    splits = load_splits(recipe.task, recipe.data)
    return load_start(make_start(recipe, splits, Path("start")), recipe, splits).head_fingerprint


def _state() -> object:
    from hf_soups.soups.methods.learned.coefficients import AdamW, load

    state = load(Path("learned.json"), "key", AdamW.of(4, 0.1))
    if state is None:
        return "no such state: from the start"  # learned.json
    state.save(Path("out"), "key")
    return "read"


def _adapter() -> object:
    from hf_soups import Checkpoint
    from hf_soups.models.adapters import multiplied_out

    return multiplied_out(Checkpoint("adapter"), Path("out")).sha256()


SOUP_FILES = ("soups/greedy", "soups/uniform")
BOARD = ("sweep/leaderboard", "sweep/score_vs_cost", "sweep/by_cost", *SOUP_FILES)
COMMANDS: dict[str, Command] = {
    "cook": Command(
        "cook sweep --method uniform --method greedy --out out --recipe pile/recipe.yaml",
        ("out", "sweep/soups", "sweep/cache"),
    ),
    "cook sharded": Command("cook sharded sweep/run_02 --out out"),
    "cook learned": Command(
        "cook sweep --method learned --epochs 2 --out learned", ("learned", "sweep/soups", "sweep/cache", ".learned")
    ),
    "leaderboard": Command("leaderboard sweep --resamples 20", BOARD),
    "compare": Command("compare sweep --resamples 50", ()),
    "diagnose": Command("diagnose sweep --points 1 --grid 0", ("sweep/diagnosis", "sweep/cache")),
    "inspect": Command("inspect sweep/run_00 sweep/run_01 sharded --json out", ("out",)),
    "predict": Command("predict small soups/greedy --recipe pile/recipe.yaml --out out"),
    "predict again": Command(
        "predict small soups/greedy --recipe pile/recipe.yaml --split select --out preds/select", ("preds/select",)
    ),
    "predict sharded": Command(
        "predict sharded --recipe pile/recipe.yaml --split report --cache cache --out out", ("out", "cache")
    ),
    "batch csv": Command("predict cascade --data rows.csv --out out"),
    "batch parquet": Command("predict cascade --data rows.parquet --out out"),
    "batch images": Command("predict vit --answers --data photos --out out"),
    "batch again": Command("predict cascade --data rows.csv --out answers --shard-rows 8", ("answers",)),
    "ensemble": Command("ensemble preds/select --report preds/report", ()),
    "ensemble tops": Command("ensemble tops --allow-selection-on-report", ()),
    "search": Command("cascade search preds/select --report preds/report --folds 0 --threads 1 --out out"),
    "show": Command("cascade show preds/select/frontier.json", ()),
    "build": Command("cascade build preds/select/frontier.json#4 --out out"),
    "certify": Command("cascade certify preds/select/frontier.json#4 --max-loss 0.5", ()),
    "draw": Command("cascade draw preds/select/frontier.json#4 --out out"),
    "card": Command("card soups/greedy --overwrite", ("soups/greedy",)),
    "card cascade": Command("card cascade --overwrite", ("cascade",)),
    "card check": Command("card cascade --check", ()),
    "report": Command("report sweep preds/select cascade --out out --resamples 20"),
    "push": Command("push soups/greedy me/soup --dry-run", ()),
    "push cascade": Command("push cascade me/cascade --dry-run", ()),
    "push pool": Command("push preds/select me/pool --dry-run", ()),
    "push sweep": Command("push sweep me/sweep --dry-run", ()),
    "sweep": Command("sweep pile/recipe.yaml --out sweep --dry-run --no-probe", ()),
    "answer": Command("answer sweep", ("sweep", *SOUP_FILES)),
    "Checkpoint": Command(_checkpoint, ()),
    "Predictions": Command(_predictions, ()),
    "start": Command(_start, (".start.lock",)),
    "learned state": Command(_state),
    "adapter": Command(_adapter),
    "pipeline": Command(_pipeline, ()),
    "demo": Command(_demo, ()),
}


@dataclass(frozen=True)
class Kind:
    """Files of one kind, the commands that read them, and names by which an error may call one besides its path."""

    files: tuple[str, ...]
    commands: tuple[str, ...]
    also: tuple[str, ...] = ()


COOK, SWEEP = ("cook", "inspect", "diagnose"), ("leaderboard", "compare", "report", "cook")
POOL = ("search", "ensemble", "report", "build", "certify", "draw", "push pool")
CASCADE = ("batch csv", "card cascade", "card check", "report", "push cascade", "pipeline", "demo")
# a change of a member's file may be told by the member's name
MEMBERS = ("member 'small'", "member 'greedy'", "small", "greedy")
KINDS: dict[str, Kind] = {
    "weights": Kind(("sweep/run_01/model.safetensors", "sweep/run_00/model.safetensors"), (*COOK, "Checkpoint")),
    "shards": Kind(
        ("sharded/model-00001-of-00002.safetensors",), ("cook sharded", "inspect", "predict sharded", "Checkpoint")
    ),
    "index": Kind(
        ("sharded/model.safetensors.index.json",), ("cook sharded", "inspect", "predict sharded", "Checkpoint")
    ),
    "config": Kind(
        ("sweep/run_01/config.json", "sweep/run_01/tokenizer_config.json", "sweep/run_01/tokenizer.json"),
        (*COOK, "Checkpoint"),
    ),
    "model": Kind(
        ("small/config.json", "small/tokenizer.json", "small/tokenizer_config.json", "small/model.safetensors"),
        ("predict",),
        MEMBERS,
    ),
    "image model": Kind(
        ("vit/config.json", "vit/preprocessor_config.json", "vit/model.safetensors"), ("batch images", "Checkpoint")
    ),
    "member": Kind(
        tuple(
            f"cascade/member_0/{f}"
            for f in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        ),
        ("batch csv", "pipeline", "demo", "push cascade"),
        MEMBERS,
    ),
    "run.json": Kind(
        ("sweep/run_01/run.json", "sweep/run_00/run.json"), (*SWEEP, "diagnose", "inspect", "answer", "push sweep")
    ),
    "soup.json": Kind(("soups/greedy/soup.json",), ("leaderboard", "compare", "report", "card", "push", "answer")),
    "plan.json": Kind(("sweep/plan.json",), (*SWEEP, "sweep", "answer", "diagnose")),
    "pointer": Kind(("sweep/soups/greedy.json",), ("leaderboard", "compare", "report", "answer")),
    "shifts.json": Kind(("sweep/shifts.json",), ("answer", "cook", "leaderboard")),
    "start.json": Kind(("start/start.json",), ("start",)),
    "pool.json": Kind(("preds/select/pool.json",), (*POOL, "predict again")),
    "report pool": Kind(
        ("preds/report/pool.json", "preds/report/small.safetensors"), ("search", "ensemble", "report", "certify")
    ),
    "frontier": Kind(("preds/select/frontier.json",), ("show", "build", "certify", "draw", "report", "push pool")),
    "cascade": Kind(("cascade/config.json",), CASCADE),
    "evidence": Kind(("cascade/evidence.json",), ("card cascade", "card check", "report", "push cascade")),
    "leaderboard": Kind(("soups/greedy/leaderboard.json",), ("card", "push", "leaderboard")),
    "answers": Kind(("answers/_answers.json",), ("batch again",)),
    "learned state": Kind(("learned.json",), ("learned state",)),
    "diagnosis": Kind(("sweep/diagnosis/scores.jsonl", "sweep/diagnosis/diagnosis.json"), ("diagnose", "report")),
    "adapter": Kind(("adapter/adapter_config.json", "adapter/adapter_model.safetensors"), ("adapter",)),
    "predictions": Kind(
        tuple(f"sweep/run_01/predictions/{r}.safetensors" for r in ("select", "report")), (*SWEEP, "Predictions")
    ),
    "soup's predictions": Kind(("soups/greedy/predictions/report.safetensors",), ("leaderboard", "report", "compare")),
    "pool's predictions": Kind(
        ("preds/select/small.safetensors", "preds/select/greedy.safetensors"), (*POOL, "predict again")
    ),
    "top-k predictions": Kind(("tops/small.safetensors",), ("ensemble tops", "Predictions")),
    "recipe": Kind(
        ("pile/recipe.yaml", "sweep/recipe.yaml", "preds/select/recipe.yaml"),
        ("sweep", "predict", "cook", "leaderboard"),
    ),
    "table": Kind(("rows.csv", "rows.parquet"), ("batch csv", "batch parquet")),
    "data": Kind(("pile/data/validation.csv", "pile/data/train.csv"), ("predict", "cook", "answer")),
    "image": Kind(
        tuple(f"photos/{i}.{e}" for i, e in enumerate(("png", "jpg", "png", "gif", "webp", "bmp"))), ("batch images",)
    ),
    "encoded rows": Kind(
        ("sweep/cache/*/values.npy", "sweep/cache/*/offsets.npy", "sweep/cache/*/types.npy"), ("cook", "diagnose")
    ),
}
# swapping needs another file of the same kind
TWINS = {
    "sweep/run_01": "sweep/run_02",
    "soups/greedy": "soups/uniform",
    "preds/select": "preds/report",
    "sweep/soups/greedy": "sweep/soups/uniform",
    "cascade/member_0": "small",
    "photos/0.png": "photos/2.png",
}


def twin_of(path: Path, world: Path) -> Path | None:
    """Another file of the same kind."""
    here = path.relative_to(world).as_posix()
    for place, other in TWINS.items():
        if here.startswith(place):
            twin = world / (other + here.removeprefix(place))
            return twin if twin.is_file() else None
    return None
