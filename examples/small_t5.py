"""A small T5, trained on nothing but the sentences of one data set: minutes on two cores.

    python examples/small_t5.py ../shared/data/glue --config sst2 --text sentence --out small-t5

writes small-t5, a T5ForConditionalGeneration of random weights that learned to fill gaps (the objective of Raffel et
al. 2020, arXiv:1910.10683: spans are cut out, and the decoder writes them behind their marks), with its tokenizer. It
knows what such sentences look like and little else: for trying recipes out where no published T5 can be had.
"""

import argparse
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

WIDTH, LAYERS, VOCABULARY, MARKS, LONGEST, BATCH, SEED = 128, 3, 4000, 20, 64, 64, 0
CUT, SPAN = 0.15, 3  # share of the tokens that are cut out, and the mean length of a span


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder in Hub layout, or a Hub id")
    parser.add_argument("--config")
    parser.add_argument("--text", action="append", required=True, help="column of texts (repeatable)")
    parser.add_argument("--rows", type=int, default=40_000, help="of train")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = datasets.load_dataset(given.data, given.config, split="train").shuffle(seed=SEED)
    texts = [text for column in given.text for text in rows[: given.rows][column]]
    tokenizer = tokenizer_of(texts)
    model = small_t5(tokenizer)
    train(model, tokenizer, texts, given.epochs)
    model.eval().save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    print(f"wrote {given.out}: {model.num_parameters()} parameters, {len(texts)} texts seen")


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


def with_gaps(tokens: list[int], marks: list[int], random: np.random.Generator) -> tuple[list[int], list[int]]:
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


def train(model: Any, tokenizer: Any, texts: list[str], epochs: int) -> None:
    """One cosine schedule over all texts; prints the loss of the gaps."""
    random = np.random.default_rng(SEED)
    encoded = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=LONGEST)["input_ids"]
    marks = [tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(MARKS)]
    pairs = [tokens for tokens in encoded if tokens]
    steps = epochs * (len(pairs) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(epochs):
        losses = []
        for at in np.array_split(random.permutation(len(pairs)), steps // epochs):
            batch = [with_gaps(pairs[i], marks, random) for i in at]
            inputs = padded([kept for kept, _ in batch], tokenizer.eos_token_id, tokenizer.pad_token_id)
            labels = padded([cut for _, cut in batch], tokenizer.eos_token_id, -100)
            mask = inputs != tokenizer.pad_token_id
            loss = model(input_ids=inputs, attention_mask=mask.long(), labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}", flush=True)


def padded(rows: list[list[int]], end: int, fill: int) -> torch.Tensor:
    """Rows of one length, each closed by the end token."""
    longest = max(map(len, rows)) + 1
    return torch.tensor([[*row, end, *[fill] * (longest - len(row) - 1)] for row in rows])


if __name__ == "__main__":
    main()
