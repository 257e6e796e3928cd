"""Pools on disk, made of random predictions; with models only where a test builds a cascade."""

from pathlib import Path

from hf_soups.pool import Member, Pool, PoolData
from hf_soups.pool.store import file_of, write_pool
from tests.cascades.pools import random_pool

LABELS = ("cat", "dog", "bird")


def made_pool(
    folder: Path, models: int = 3, rows: int = 200, seed: int = 0, data: str = "rows", sources: tuple[Path, ...] = ()
) -> Path:
    """m0, m1, ... of rising accuracy and cost; `sources` are their checkpoints."""
    from dataclasses import replace

    folder.mkdir(parents=True, exist_ok=True)
    predictions, costs = random_pool(models, rows=rows, classes=len(LABELS), seed=seed)
    members = {}
    for i, (name, p) in enumerate(predictions.items()):
        replace(p, label_names=LABELS, data=data).save(folder / file_of(name))
        source = str(sources[i]) if sources else f"org/{name}"
        members[name] = Member(name, source, parameters=10 * (i + 1), macs=int(costs[name]), file=file_of(name))
    about = PoolData("made-up", "test", rows=rows, fingerprint=data, columns=("image",), label="label")
    write_pool(Pool(folder, "image", about, LABELS, members))
    return folder
