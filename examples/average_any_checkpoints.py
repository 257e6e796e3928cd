"""Average any fine-tunes of one architecture, and use the soup like every other checkpoint.

    python examples/average_any_checkpoints.py FOLDER_OR_REPO FOLDER_OR_REPO ... --out soup

Without arguments it makes two small random ViTs first, so that it runs anywhere.
"""

import argparse
import tempfile
from pathlib import Path

from hf_soups import Checkpoint, preflight, uniform


def two_small_vits(folder: Path) -> list[str]:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(0)
    model = ViTForImageClassification(config)
    for name in ("a", "b"):  # two "fine-tunes" of one start: the start and a small step from it
        model.save_pretrained(folder / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    return [str(folder / "a"), str(folder / "b")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sources = arguments.checkpoints or two_small_vits(Path(scratch))
        out = arguments.out or str(Path(scratch) / "soup")
        ingredients = [Checkpoint(source) for source in sources]
        preflight(ingredients).raise_for_errors()
        uniform(ingredients).save_pretrained(out)

        from transformers import AutoModelForImageClassification

        model = AutoModelForImageClassification.from_pretrained(out)
        print(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters, averaged over {len(sources)} models")


if __name__ == "__main__":
    main()
