"""A smaller start from a larger one: keep the first layers of a transformer encoder, then fine-tune it as usual.

    python examples/first_layers.py FOLDER_OR_REPO --layers 2 --out minilm-2-layers
    python examples/first_layers.py                      a random BERT of 4 layers, cut to 2, so that it runs anywhere

Two sizes of one encoder, both fine-tuned on the same rows, are the simplest pool for a cascade of texts.
"""

import argparse
import tempfile
from pathlib import Path

from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel


def cut(source: str, layers: int, out: Path) -> int:
    """Write `source` with its first `layers` layers alone; the number of its parameters."""
    model = AutoModel.from_pretrained(source)
    had = model.config.num_hidden_layers
    if not 0 < layers <= had:
        raise SystemExit(f"{source} has {had} layers; --layers {layers} cannot be kept.")
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    model.save_pretrained(out)
    if (Path(source) / "tokenizer_config.json").is_file() or not Path(source).is_dir():
        AutoTokenizer.from_pretrained(source).save_pretrained(out)
    return sum(p.numel() for p in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = arguments.source
        if source is None:
            source = str(Path(scratch) / "random")
            BertModel(BertConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
                                 vocab_size=100)).save_pretrained(source)  # fmt: skip
        out = arguments.out or Path(scratch) / "cut"
        parameters = cut(source, arguments.layers, out)
        kept = AutoModel.from_pretrained(out)
        print(f"{out}: {kept.config.num_hidden_layers} layers, {parameters:,} parameters")


if __name__ == "__main__":
    main()
