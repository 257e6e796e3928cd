"""A small T5, trained as the T5 paper trains its own: by filling gaps in texts and by doing the task, in turns.

    python examples/small_t5.py ../shared/data/glue --config sst2 --prompt "sst2 sentence: {sentence}" --out small-t5

writes small-t5/model, a T5ForConditionalGeneration with its tokenizer, and small-t5/data, the labelled rows that it has
not seen (a fifth of train, and the validation split), for recipes/studies/glue-soups/small-t5.yaml. Spans are cut out
of a text, and the decoder writes them behind their marks; a label's word is its class's name (Raffel et al. 2020,
arXiv:1910.10683, which trains on such a mixture). It knows little else than this task: for trying recipes out where no
published T5 can be had.
"""

import argparse
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

WIDTH, LAYERS, VOCABULARY, MARKS, LONGEST, BATCH, SEED = 128, 3, 4000, 20, 64, 64, 0
CUT, SPAN = 0.15, 3  # share of the tokens that are cut out, and the mean length of a span
HELD_OUT, RATE = 0.2, 1e-2

Pair = tuple[list[int], list[int]]  # tokens that are read, tokens that are written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder in Hub layout, or a Hub id")
    parser.add_argument("--config")
    parser.add_argument("--prompt", required=True, help="with the columns of texts as placeholders")
    parser.add_argument("--label", default="label", help="column of the classes")
    parser.add_argument("--test", default="validation", help="split that recipes report on")
    parser.add_argument("--rows", type=int, help="of train, to be quick")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = datasets.load_dataset(given.data, given.config, split="train").shuffle(seed=SEED)
    rows = rows.select(range(min(given.rows or len(rows), len(rows))))
    kept = rows.select(range(len(rows) - round(HELD_OUT * len(rows)), len(rows)))
    seen = rows.select(range(len(rows) - len(kept)))
    if len(seen) < BATCH:
        parser.error(f"{len(rows)} train rows: at least {round(BATCH / (1 - HELD_OUT)) + 1} make one batch")
    columns = [name for _, name, _, _ in string.Formatter().parse(given.prompt) if name]
    texts = [text for column in columns for text in seen[column]]
    prompts = [given.prompt.format(**row) for row in seen]
    words = seen.features[given.label].names
    tokenizer = tokenizer_of([*texts, *prompts[: len(prompts) // 10], *words * 100])
    model = small_t5(tokenizer)
    answers = [words[label] for label in seen[given.label]]
    train(model, tokenizer, texts, (prompts, answers), given.epochs)
    model.eval().save_pretrained(given.out / "model")
    tokenizer.save_pretrained(given.out / "model")
    test = datasets.load_dataset(given.data, given.config, split=given.test)
    (given.out / "data").mkdir(exist_ok=True)
    kept.select_columns([*columns, given.label]).to_parquet(given.out / "data" / "train.parquet")
    test.select_columns([*columns, given.label]).to_parquet(given.out / "data" / "validation.parquet")
    print(
        f"wrote {given.out}: {model.num_parameters()} parameters, {len(seen)} rows seen, "
        f"{len(kept)} train and {len(test)} test rows kept apart"
    )


def tokenizer_of(texts: list[str]) -> Any:
    """As T5's own: unigrams, with numbered marks for gaps at the end of the vocabulary."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    raw.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>",
                                       show_progress=False),
    )  # fmt: skip
    pieces = [(piece, score) for piece, score in json.loads(raw.to_str())["model"]["vocab"]]
    marks = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(MARKS))]
    return T5Tokenizer(vocab=[*pieces, *marks], extra_ids=MARKS, model_max_length=512)


def small_t5(tokenizer: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(SEED)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer), d_model=WIDTH, d_kv=32, d_ff=2 * WIDTH, num_layers=LAYERS, num_heads=4,
            decoder_start_token_id=tokenizer.pad_token_id, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


def with_gaps(tokens: list[int], marks: list[int], random: np.random.Generator) -> Pair:
    """The text with a mark where a span was cut, and the spans, each behind its mark."""
    gone = np.zeros(len(tokens), dtype=bool)
    while gone.sum() < max(1, round(CUT * len(tokens))):
        start = random.integers(len(tokens))
        gone[start : start + 1 + random.poisson(SPAN - 1)] = True
    kept: list[int] = []
    cut: list[int] = []
    left = iter(marks)
    for at, token in enumerate(tokens):
        if not gone[at]:
            kept.append(token)
            continue
        if at == 0 or not gone[at - 1]:
            mark = next(left)
            kept.append(mark)
            cut.append(mark)
        cut.append(token)
    return kept, cut


def train(model: Any, tokenizer: Any, texts: list[str], task: tuple[list[str], list[str]], epochs: int) -> None:
    """One falling schedule; every other batch is of the task. Prints the loss of the gaps and that of the words."""
    from transformers.optimization import Adafactor

    random = np.random.default_rng(SEED)
    marks = [tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(MARKS)]
    gaps, (prompts, words) = _tokens(tokenizer, texts), (_tokens(tokenizer, side) for side in task)
    steps = 2 * (len(prompts) // BATCH)
    # T5's own optimizer: its embeddings start near 1, and AdamW's even steps leave them there
    optimizer = Adafactor(model.parameters(), lr=RATE, relative_step=False, warmup_init=False)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=epochs * steps)
    model.train()
    for epoch in range(epochs):
        losses = np.zeros((steps // 2, 2))
        for step, (cut, asked) in enumerate(zip(_batches(gaps, random), _batches(prompts, random), strict=False)):
            filled = [with_gaps(gaps[i], marks, random) for i in cut]
            for kind, pairs in enumerate((filled, [(prompts[i], words[i]) for i in asked])):
                loss = loss_of(model, tokenizer, pairs)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                losses[step, kind] = float(loss.detach())
        print(
            f"epoch {epoch + 1}: loss of gaps {losses[:, 0].mean():.3f}, of labels {losses[:, 1].mean():.3f}",
            flush=True,
        )


def _tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=LONGEST)["input_ids"]
    return [tokens or [tokenizer.unk_token_id] for tokens in encoded]


def _batches(rows: list[list[int]], random: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows in random order, those of a batch of about one length; the last few are left out."""
    lengths, order = np.array([len(row) for row in rows]), random.permutation(len(rows))
    chunks = np.array_split(order, max(1, len(order) // (50 * BATCH)))
    sorted_rows = np.concatenate([chunk[lengths[chunk].argsort()] for chunk in chunks])
    starts = random.permutation(len(order) // BATCH) * BATCH
    return (sorted_rows[start : start + BATCH] for start in starts)


def loss_of(model: Any, tokenizer: Any, pairs: list[Pair]) -> torch.Tensor:
    inputs = padded([read for read, _ in pairs], tokenizer.eos_token_id, tokenizer.pad_token_id)
    labels = padded([written for _, written in pairs], tokenizer.eos_token_id, -100)
    mask = inputs != tokenizer.pad_token_id
    loss: torch.Tensor = model(input_ids=inputs, attention_mask=mask.long(), labels=labels).loss
    return loss


def padded(rows: list[list[int]], end: int, fill: int) -> torch.Tensor:
    """Rows of one length, each closed by the end token."""
    longest = max(map(len, rows)) + 1
    return torch.tensor([[*row, end, *[fill] * (longest - len(row) - 1)] for row in rows])


if __name__ == "__main__":
    main()
