"""Tiny random models of every architecture in the table, each saved as a folder in the Hub's layout.

`tiny_bert(path)` writes config, safetensors and tokenizer; `tiny_vit(path)` config, safetensors and image processor.
All weights come from `seed`, whatever the state of the global generators; nothing is downloaded.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = (  # noqa: SIM905 (shorter than a list)
    "the a an cat dog bird film book house day night man woman child city good bad great awful dull bright happy sad "
    "new old big small is was are were not never always very and or but of in on at with for to from he she it they "
    "we you i likes hates sees reads watches finds says runs sleeps sings this that there here one two three . , ! ? ' "
    "movie story plot acting scene wonderful terrible boring funny quick slow red green blue"
).split()
IMAGE_SIZE = 32


def tiny_bert(path: str | Path, labels: int = 2, seed: int = 0, **config: Any) -> Path:
    """Two layers of width 32, with a pooler."""
    from transformers import BertConfig, BertForSequenceClassification

    return _save_text(path, BertForSequenceClassification, BertConfig(**_sized(labels, config)), "bert", seed)


def tiny_bert_without_pooler(path: str | Path, labels: int = 2, seed: int = 0, **config: Any) -> Path:
    """As MiniLM's sentence encoders are published: a bare BertModel, neither head nor pooler among the weights."""
    from transformers import BertConfig, BertModel

    build = functools.partial(BertModel, add_pooling_layer=False)
    return _save_text(path, build, BertConfig(**_sized(labels, config)), "bert", seed)


def tiny_distilbert(path: str | Path, labels: int = 2, seed: int = 0, **config: Any) -> Path:
    """Two layers of width 32; no token types."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    about = dict(vocab_size=VOCAB, dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=64)
    made = DistilBertConfig(**{**about, "num_labels": labels, **config})
    return _save_text(path, DistilBertForSequenceClassification, made, "distilbert", seed)


def tiny_roberta(path: str | Path, labels: int = 2, seed: int = 0, **config: Any) -> Path:
    """Two layers of width 32, byte-level BPE, two linear layers in the head."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sized = _sized(labels, config)
    # RoBERTa's positions start after the padding index
    made = RobertaConfig(
        **{**sized, "vocab_size": 400, "max_position_embeddings": 66, "type_vocab_size": 1, **config},
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    return _save_text(path, RobertaForSequenceClassification, made, "roberta", seed)


def tiny_bert_mlm(path: str | Path, seed: int = 0, **config: Any) -> Path:
    """As `tiny_bert`, with the layer that fills in masked words instead of a head."""
    from transformers import BertConfig, BertForMaskedLM

    return _save_text(path, BertForMaskedLM, BertConfig(**_sized(2, config)), "bert", seed)


def tiny_roberta_mlm(path: str | Path, seed: int = 0, **config: Any) -> Path:
    """As `tiny_roberta`, with the layer that fills in masked words; its mask takes the space before it."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    about = {"vocab_size": 400, "max_position_embeddings": 66, "type_vocab_size": 1}
    made = RobertaConfig(**{**_sized(2, config), **about}, bos_token_id=0, pad_token_id=1, eos_token_id=2)
    return _save_text(path, RobertaForMaskedLM, made, "roberta", seed)


def tiny_t5(path: str | Path, seed: int = 0, **config: Any) -> Path:
    """T5 v1.0 in two layers of width 32: one table of words, tied everywhere."""
    from transformers import T5ForConditionalGeneration

    return _save_text(path, T5ForConditionalGeneration, _t5_config(config), "t5", seed)


def tiny_t5_v1_1(path: str | Path, seed: int = 0, **config: Any) -> Path:
    """As T5 v1.1 and Flan: gated, the layer that tells words not tied, and a config.json as theirs were published."""
    from transformers import T5ForConditionalGeneration

    def build(made: Any) -> Any:
        model = T5ForConditionalGeneration(made)
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.2)
        return model

    made = _t5_config({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **config})
    folder = _save_text(path, build, made, "t5", seed)
    about = json.loads((folder / "config.json").read_text())
    del about["scale_decoder_outputs"]
    (folder / "config.json").write_text(json.dumps({**about, "tie_word_embeddings": False}))
    return folder


def tiny_t5_classifier(path: str | Path, labels: int = 2, seed: int = 0, **config: Any) -> Path:
    """T5 with a head of its own."""
    from transformers import T5ForSequenceClassification

    return _save_text(path, T5ForSequenceClassification, _t5_config({"num_labels": labels, **config}), "t5", seed)


def tiny_bart(path: str | Path, labels: int = 4, seed: int = 0, **config: Any) -> Path:
    """BART's encoder and decoder in two layers of width 32, with a head."""
    from transformers import BartConfig, BartForSequenceClassification

    about = dict(
        vocab_size=400, d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64, bos_token_id=0,
        pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, num_labels=labels, dropout=0.0,
    )  # fmt: skip
    return _save_text(path, BartForSequenceClassification, BartConfig(**{**about, **config}), "roberta", seed)


def tiny_gpt2(path: str | Path, labels: int = 2, seed: int = 0, **config: Any) -> Path:
    """A decoder without a padding token: what the encoders' family must refuse."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    about = dict(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=2)
    made = GPT2Config(**{**about, "num_labels": labels, **config})
    return _save_text(path, GPT2ForSequenceClassification, made, "gpt2", seed)


def tiny_vit(path: str | Path, labels: int = 3, seed: int = 0, **config: Any) -> Path:
    """Two layers of width 32 on 16 patches of 8 x 8 pixels."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    made = ViTConfig(**{**_patches(labels), **config})
    return _save_image(path, ViTForImageClassification, made, ViTImageProcessorPil(size=_square()), seed)


def tiny_deit(path: str | Path, labels: int = 3, seed: int = 0, **config: Any) -> Path:
    """As `tiny_vit`, with a distillation token and a processor that crops."""
    from transformers import DeiTConfig, DeiTForImageClassification, DeiTImageProcessorPil

    made = DeiTConfig(**{**_patches(labels), **config})
    processor = DeiTImageProcessorPil(size={"height": 36, "width": 36}, crop_size=_square())
    return _save_image(path, DeiTForImageClassification, made, processor, seed)


def tiny_swin(path: str | Path, labels: int = 3, seed: int = 0, **config: Any) -> Path:
    """Two stages of shifted windows."""
    from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessorPil

    about = dict(image_size=IMAGE_SIZE, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4)
    made = SwinConfig(**{**about, "num_labels": labels, **config})
    return _save_image(path, SwinForImageClassification, made, ViTImageProcessorPil(size=_square()), seed)


def tiny_resnet(path: str | Path, labels: int = 3, seed: int = 0, **config: Any) -> Path:
    """Two stages of basic blocks with BatchNorm."""
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

    about = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    made = ResNetConfig(**{**about, "num_labels": labels, **config})
    processor = ConvNextImageProcessorPil(size={"shortest_edge": IMAGE_SIZE})
    return _save_image(path, ResNetForImageClassification, made, processor, seed)


def tiny_efficientnet(path: str | Path, labels: int = 3, seed: int = 0, **config: Any) -> Path:
    """Two stages of inverted residuals with squeeze-and-excitation and BatchNorm; normalised twice, as published."""
    from transformers import EfficientNetConfig, EfficientNetForImageClassification, EfficientNetImageProcessorPil

    about = dict(
        image_size=IMAGE_SIZE, width_coefficient=0.25, depth_coefficient=0.5, hidden_dim=320, in_channels=[32, 16],
        out_channels=[16, 24], kernel_sizes=[3, 3], depthwise_padding=[], strides=[1, 2], num_block_repeats=[1, 2],
        expand_ratios=[1, 6], dropout_rate=0.0, drop_connect_rate=0.0,
    )  # fmt: skip
    made = EfficientNetConfig(**{**about, "num_labels": labels, **config})
    return _save_image(
        path, EfficientNetForImageClassification, made, EfficientNetImageProcessorPil(size=_square()), seed
    )


def tiny_mobilenet_v2(path: str | Path, labels: int = 3, seed: int = 0, **config: Any) -> Path:
    """The narrowest MobileNetV2 its layout allows, with BatchNorm."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification, MobileNetV2ImageProcessorPil

    about = dict(
        image_size=IMAGE_SIZE, depth_multiplier=0.1, depth_divisible_by=4, min_depth=4, finegrained_output=True
    )
    made = MobileNetV2Config(**{**about, "num_labels": labels, "classifier_dropout_prob": 0.0, **config})
    processor = MobileNetV2ImageProcessorPil(size={"shortest_edge": 36}, crop_size=_square())
    return _save_image(path, MobileNetV2ForImageClassification, made, processor, seed)


def tiny_clip(path: str | Path, seed: int = 0, **config: Any) -> Path:
    """Both towers of CLIP in two layers of width 32, with tokenizer and image processor, and no head."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    about = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    tokenizer = _clip_tokenizer()
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    made = CLIPConfig(
        text_config={**about, **text}, vision_config={**about, "image_size": IMAGE_SIZE, "patch_size": 8},
        projection_dim=16, **config,
    )  # fmt: skip
    tokenizer.save_pretrained(path)
    return _save_image(path, CLIPModel, made, CLIPImageProcessorPil(size=_shortest(), crop_size=_square()), seed)


def tiny_siglip(path: str | Path, seed: int = 0, **config: Any) -> Path:
    """Both towers of SigLIP, as `tiny_clip`; with CLIP's kind of tokenizer, since its own needs sentencepiece."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    about = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    tokenizer = _clip_tokenizer()
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    made = SiglipConfig(
        text_config={**about, **text}, vision_config={**about, "image_size": IMAGE_SIZE, "patch_size": 8}, **config
    )
    tokenizer.save_pretrained(path)
    return _save_image(path, SiglipModel, made, SiglipImageProcessorPil(size=_square()), seed)


def tiny_clip_tower(path: str | Path, seed: int = 0) -> Path:
    """CLIP's image tower with its projection alone, as some publish it."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    made = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=IMAGE_SIZE,
        patch_size=8, projection_dim=16,
    )  # fmt: skip
    processor = CLIPImageProcessorPil(size=_shortest(), crop_size=_square())
    return _save_image(path, CLIPVisionModelWithProjection, made, processor, seed)


TINY_TEXT: dict[str, Callable[..., Path]] = {
    "bert": tiny_bert,
    "bert-without-pooler": tiny_bert_without_pooler,
    "distilbert": tiny_distilbert,
    "roberta": tiny_roberta,
}
TINY_ENCODER_DECODERS: dict[str, Callable[..., Path]] = {"t5-classifier": tiny_t5_classifier, "bart": tiny_bart}
TINY_T5: dict[str, Callable[..., Path]] = {"t5": tiny_t5, "t5-v1.1": tiny_t5_v1_1}  # without heads
TINY_MASKED: dict[str, Callable[..., Path]] = {"bert-mlm": tiny_bert_mlm, "roberta-mlm": tiny_roberta_mlm}
TINY_IMAGE: dict[str, Callable[..., Path]] = {
    "vit": tiny_vit,
    "deit": tiny_deit,
    "swin": tiny_swin,
    "resnet": tiny_resnet,
    "efficientnet": tiny_efficientnet,
    "mobilenet_v2": tiny_mobilenet_v2,
}
TINY_CLIP: dict[str, Callable[..., Path]] = {  # without heads
    "clip": tiny_clip,
    "clip-tower": tiny_clip_tower,
    "siglip": tiny_siglip,
}


def tiny_sentences(rows: int, seed: int = 0, longest: int = 20) -> list[str]:
    """Random sentences of 1 to `longest` known words."""
    import numpy as np

    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, int(random.integers(1, longest + 1)))) for _ in range(rows)]


@functools.cache
def tiny_tokenizer(kind: str = "bert") -> Any:
    """A tokenizer made here: WordPiece for bert and distilbert, unigrams for t5, else byte-level BPE."""
    return {"bert": _wordpiece, "distilbert": _wordpiece, "t5": _unigrams}.get(kind, _byte_bpe)(kind)


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
PIECES = list(dict.fromkeys([*SPECIAL, *WORDS, *LETTERS, *[f"##{letter}" for letter in LETTERS]]))
VOCAB = len(PIECES)


def _wordpiece(kind: str) -> Any:
    from transformers import BertTokenizer, DistilBertTokenizer

    cls = BertTokenizer if kind == "bert" else DistilBertTokenizer
    return cls(vocab={piece: i for i, piece in enumerate(PIECES)}, model_max_length=64)


def _unigrams(_kind: str) -> Any:
    """T5's kind: whole words where known, else letters."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    words = [(f"▁{word}", -3.0) for word in dict.fromkeys(WORDS) if len(word) > 1]
    signs = [(sign, -6.0) for sign in (*LETTERS, "1", "2", "3", ".", ",", "!", "?", "'", ":", "_")]
    sentinels = [("<extra_id_1>", 0.0), ("<extra_id_0>", 0.0)]
    return T5Tokenizer(vocab=[*special, *words, *signs, *sentinels], extra_ids=2, model_max_length=64)


def _t5_config(config: dict[str, Any]) -> Any:
    from transformers import T5Config

    about = dict(
        vocab_size=len(tiny_tokenizer("t5")), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    return T5Config(**{**about, **config})


def _byte_bpe(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Tokenizer, RobertaTokenizer

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([" ".join(WORDS)] * 2, trainer)
    model = json.loads(raw.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    if kind == "gpt2":
        return GPT2Tokenizer(
            vocab=model["vocab"], merges=merges, unk_token="<unk>", bos_token="</s>", eos_token="</s>",
            model_max_length=64,
        )  # fmt: skip
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=64)


def _sized(labels: int, config: dict[str, Any]) -> dict[str, Any]:
    about = dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, num_labels=labels,
    )  # fmt: skip
    return {**about, **config}


def _patches(labels: int) -> dict[str, Any]:
    return dict(
        image_size=IMAGE_SIZE, patch_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_labels=labels,
    )  # fmt: skip


def _clip_tokenizer() -> Any:
    """CLIP's kind of byte-level BPE, with no merges: one token for each letter."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *[f"{letter}</w>" for letter in letters], "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=32)


def _shortest() -> dict[str, int]:
    return {"shortest_edge": IMAGE_SIZE}


def _square() -> dict[str, int]:
    return {"height": IMAGE_SIZE, "width": IMAGE_SIZE}


def _save_text(path: str | Path, build: Callable[[Any], Any], config: Any, tokenizer: str, seed: int) -> Path:
    tiny_tokenizer(tokenizer).save_pretrained(path)
    return _save_model(path, build, config, seed)


def _save_image(path: str | Path, build: Callable[[Any], Any], config: Any, processor: Any, seed: int) -> Path:
    processor.save_pretrained(path)
    return _save_model(path, build, config, seed)


def _save_model(path: str | Path, build: Callable[[Any], Any], config: Any, seed: int) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config)
        _spread(model)
    model.save_pretrained(path)
    return Path(path)


def _spread(model: Any) -> None:
    """Larger weights and BatchNorm statistics away from their start, so that tests see real differences."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and parameter.std() < 0.05:
                parameter.mul_(3.0)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)  # else nothing of the image reaches the logits
            if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
                module.weight.uniform_(0.8, 1.2)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.8, 1.2)
