"""Greedy's seconds: weights swapped in place, rows in length buckets, candidates stopped early, against a plain loop.

    python benchmarks/greedy.py            small: 6 tiny BERTs, seconds; checks that the benchmark itself works
    python benchmarks/greedy.py --full     32 BERTs of 6 layers and width 384 (MiniLM's shapes), 1,000 rows
    python benchmarks/greedy.py --full --ingredients 8 --rows 200
    python benchmarks/greedy.py --full --every-row             candidates that cannot join are scored to the end

The plain loop is that of the authors' script (Wortsman et al. 2022): for each candidate read its state dict, average it
with the running mean, make a model of the result, and score it on rows that are all padded to the longest length.
The two take turns, evaluation by evaluation, so that whatever else the machine does slows both alike. Weights are
random (noise around one start) and so are the rows; the lengths are those of sentence pairs: a mean of 53 tokens, at
most 128. Both must take the same decisions, and no bound may be below the score, or the benchmark fails.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Thread

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import Split
from hf_soups.metrics import METRICS
from hf_soups.models.encoder import Encoders
from hf_soups.models.family import Batch
from hf_soups.models.inference import predict_split
from hf_soups.models.tokens import EncodedTexts
from hf_soups.soups import Soup, greedy
from hf_soups.soups.early_stop import EarlyStop
from hf_soups.soups.mixing.live import LiveMixer
from hf_soups.soups.scoring import CPU_ROWS, SoupScorer
from hf_soups.soups.soup import AtBest, Score

LONGEST, MEAN_TOKENS, BATCH = 128, 53, 64
ROWS_AT_ONCE = BATCH if torch.cuda.is_available() else CPU_ROWS
Steps = list[tuple[str, float, bool, bool]]  # candidate, score with it, whether it joined, whether that is a bound


@dataclass
class TimedEncoders:
    """The encoders' family, with the seconds that its forward passes take; `pad_to` pads every batch."""

    pad_to: int | None = None
    seconds: float = 0.0
    name: str = "encoder"
    kinds: tuple[str, ...] = field(default=("text",))

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """As the family's, with a watch."""
        if self.pad_to is not None:
            batch = {k: torch.nn.functional.pad(v, (0, self.pad_to - v.shape[1])) for k, v in batch.items()}
        synchronise()
        started = time.perf_counter()
        logits = Encoders().logits(model, batch)
        synchronise()
        self.seconds += time.perf_counter() - started
        return logits


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def config(full: bool) -> BertConfig:
    if full:
        return BertConfig(
            num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
        )
    return BertConfig(
        num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128, vocab_size=1000
    )


def write_ingredients(folder: Path, count: int, full: bool) -> list[Checkpoint]:
    """Models around one start, every third of them further from it: most answer as it does but for a few rows."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(config(full)).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(20)  # so that answers differ between rows
        logits = model(torch.randint(5, model.config.vocab_size, (64, MEAN_TOKENS))).logits
        model.classifier.bias[1] -= (logits[:, 1] - logits[:, 0]).median()  # and both classes are answered
    model.save_pretrained(folder / "start")
    start = load_file(folder / "start" / "model.safetensors")
    for i in range(count):
        at = folder / f"m{i:02d}"
        model.config.save_pretrained(at)
        generator = torch.Generator().manual_seed(i + 1)
        spread = 0.02 if i % 3 else 0.08
        moved = {
            n: w if n == "classifier.bias" else w + spread * float(w.std()) * torch.randn(w.shape, generator=generator)
            for n, w in start.items()
        }
        save_file(moved, at / "model.safetensors", metadata={"format": "pt"})
    return [Checkpoint(folder / f"m{i:02d}") for i in range(count)]


def make_rows(rows: int, vocabulary: int, start: Path) -> tuple[EncodedTexts, Split]:
    """Random tokens; labels are the start's answers, a fifth of them turned."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.gamma(6, MEAN_TOKENS / 6, rows).round(), 4, LONGEST).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = random.integers(5, vocabulary, offsets[-1]).astype(np.int32)
    ids = np.arange(rows, dtype=np.int64)
    encoded = EncodedTexts(ids, values, offsets, None, pad=0, pad_type=0, pad_left=False)
    blank = Split.of(
        "select", Dataset.from_dict({"row": ids}), ids, np.zeros(rows, dtype=np.int64), ("a", "b"), "random"
    )
    model = on_device(BertForSequenceClassification.from_pretrained(start))
    log_probs = predict_split(model, TimedEncoders(), encoded, blank).log_probs
    margin = log_probs[:, 1] - log_probs[:, 0]
    labels = (margin > np.median(margin)).astype(np.int64)
    turned = random.permutation(rows)[: rows // 5]
    labels[turned] = 1 - labels[turned]
    return encoded, Split.of("select", blank.rows, ids, labels, ("a", "b"), "random")


def on_device(model: BertForSequenceClassification) -> BertForSequenceClassification:
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def ours(
    pool: list[Checkpoint], encoded: EncodedTexts, split: Split, family: TimedEncoders, state: Path | None
) -> Iterator[Steps]:
    """Yields after every evaluation; the last is the steps taken. No state: every row is scored."""
    model = on_device(BertForSequenceClassification.from_pretrained(pool[0].source))
    scorer = SoupScorer(family, model, encoded, split, METRICS["accuracy"], LiveMixer(model), ROWS_AT_ONCE)
    early = None if state is None else EarlyStop(scorer, state)
    asked, answered = Queue[tuple[Soup, Score | None] | None](1), Queue[Score | AtBest](1)

    def score(soup: Soup, floor: Score | None = None) -> Score | AtBest:  # greedy waits here until it is our turn
        asked.put((soup, floor))
        return answered.get()

    found: list[Soup] = []

    def search() -> None:
        found.append(greedy(pool, score, score_or_bound=score))  # type: ignore[arg-type]  # singles have no bound
        asked.put(None)

    Thread(target=search, daemon=True).start()
    while (question := asked.get()) is not None:
        soup, floor = question
        answered.put(scorer(soup) if early is None or len(soup.ingredients) == 1 else early(soup, floor))
        yield []
    steps = found[0].steps
    yield [
        (s.candidate, *((s.score, s.accepted, False) if s.at_best is None else (s.at_best, False, True))) for s in steps
    ]


def plain(pool: list[Checkpoint], encoded: EncodedTexts, split: Split, family: TimedEncoders) -> Iterator[Steps]:
    """The authors' loop, yielding in the same way."""
    unsorted = EncodedInOrder(encoded)

    def scored(weights: dict[str, torch.Tensor]) -> float:
        model = BertForSequenceClassification(BertConfig.from_pretrained(pool[0].source))
        model.load_state_dict(weights)
        answers = predict_split(on_device(model), family, unsorted, split, batch_size=BATCH)
        return METRICS["accuracy"].compute(answers)

    def read(i: int) -> dict[str, torch.Tensor]:
        return load_file(pool[i].folder / "model.safetensors")

    singles = []
    for i in range(len(pool)):
        singles.append(scored(read(i)))
        yield []
    order = sorted(range(len(pool)), key=lambda i: -singles[i])
    mean, best, members = read(order[0]), singles[order[0]], 1
    steps = [(pool[order[0]].name, best, True, False)]
    for i in order[1:]:
        new = read(i)
        tried = {k: mean[k].clone() * (members / (members + 1)) + new[k].clone() * (1 / (members + 1)) for k in new}
        score = scored(tried)
        steps.append((pool[i].name, score, score >= best, False))
        if score >= best:
            mean, best, members = tried, score, members + 1
        yield []
    yield steps


class EncodedInOrder:
    """The same rows, in batches as they come: no row says how long it is."""

    def __init__(self, encoded: EncodedTexts) -> None:
        self._encoded = encoded
        self.row_ids = encoded.row_ids
        self.lengths = np.ones(len(encoded), dtype=np.int64)
        self.batch = encoded.batch

    def __len__(self) -> int:
        return len(self._encoded)


def taking_turns(*runs: Iterator[Steps]) -> list[tuple[Steps, float]]:
    """The last thing that each yields, and the seconds it worked for."""
    last: list[Steps] = [[] for _ in runs]
    seconds, going = [0.0] * len(runs), set(range(len(runs)))
    while going:
        for i in sorted(going):
            synchronise()
            started = time.perf_counter()
            steps = next(runs[i], None)
            synchronise()
            seconds[i] += time.perf_counter() - started
            if steps is None:
                going.remove(i)
            else:
                last[i] = steps
    return list(zip(last, seconds, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="MiniLM's shapes; default: --small")
    parser.add_argument("--small", action="store_true", help="tiny shapes (the default)")
    parser.add_argument("--ingredients", type=int, help="default: 32 with --full, else 6")
    parser.add_argument("--rows", type=int, help="default: 1000 with --full, else 200")
    parser.add_argument("--every-row", action="store_true", help="score every candidate to the end")
    asked = parser.parse_args()
    logging.disable_progress_bar()
    count = asked.ingredients or (32 if asked.full else 6)
    rows = asked.rows or (1000 if asked.full else 200)
    with tempfile.TemporaryDirectory(prefix="hf_soups-greedy-") as folder:
        pool = write_ingredients(Path(folder), count, asked.full)
        encoded, split = make_rows(rows, config(asked.full).vocab_size, Path(folder) / "start")
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
        print(f"{count} ingredients of {pool[0].parameters:,} parameters, {rows} rows, {where}", flush=True)
        bucketed, padded = TimedEncoders(), TimedEncoders(pad_to=LONGEST)
        state = None if asked.every_row else Path(folder) / "rows"
        runs = ours(pool, encoded, split, bucketed, state), plain(pool, encoded, split, padded)
        (steps, mine), (expected, theirs) = taking_turns(*runs)
    told("hf_soups", mine, bucketed.seconds)
    told("plain loop", theirs, padded.seconds)
    joined, bounds = sum(step[2] for step in steps), sum(step[3] for step in steps)
    print(f"ratio      {theirs / mine:8.2f} x; {joined} of {count} ingredients joined, {bounds} were stopped")
    for (name, score, accepted, bound), (other, exact, wanted, _) in zip(steps, expected, strict=True):
        if (name, accepted) != (other, wanted) or (score < exact if bound else score != exact):
            sys.exit(f"the two did not take the same steps ({name} {score}, {other} {exact}): one of them is wrong")
    print("the same decisions; scores are the same, bounds are not below them")


def told(name: str, seconds: float, forward: float) -> None:
    print(f"{name:10} {seconds:8.2f} s, of which {1 - forward / seconds:6.1%} outside forward passes", flush=True)


if __name__ == "__main__":
    main()
