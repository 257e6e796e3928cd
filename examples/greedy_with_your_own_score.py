"""Greedy needs only checkpoints and a score: any function of a soup, higher is better.

python examples/greedy_with_your_own_score.py
"""

import tempfile
from pathlib import Path

import numpy as np

from hf_soups import Checkpoint, Soup, greedy


def noisy_copies(folder: Path, number: int) -> list[Checkpoint]:
    """`number` copies of one small BERT, each with its own noise: like fine-tunes around one optimum."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    centre = BertForSequenceClassification(config)
    centre.save_pretrained(folder / "centre")
    copies = []
    for i in range(number):
        copy = BertForSequenceClassification(config)
        copy.load_state_dict(centre.state_dict())
        with torch.no_grad():
            for parameter in copy.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        copy.save_pretrained(folder / f"copy_{i}")
        copies.append(Checkpoint(folder / f"copy_{i}"))
    return copies


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ingredients = noisy_copies(Path(scratch), 5)
        name = "bert.encoder.layer.0.output.dense.weight"
        wanted = Checkpoint(Path(scratch) / "centre").read(name)

        def nearness(soup: Soup) -> float:
            mixed = sum(c * i.read(name) for c, i in zip(soup.coefficients, soup.ingredients, strict=True))
            return -float(np.linalg.norm(mixed - wanted))

        soup = greedy(ingredients, nearness)
        for step in soup.steps:
            print(f"{step.candidate:8} score {step.score:8.4f}  {'kept' if step.accepted else 'left out'}")
        print("the soup:", ", ".join(ingredient.name for ingredient in soup.ingredients))


if __name__ == "__main__":
    main()
