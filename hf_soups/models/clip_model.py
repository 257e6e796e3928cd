"""CLIP's and SigLIP's image towers with a linear head on unit vectors: image classifiers saved as ordinary folders.

transformers has `CLIPForImageClassification` and `SiglipForImageClassification`, but their heads read the mean of the
patches before the projection (CLIP) or before the pooling (SigLIP), which the text tower was never trained to meet. A
head made of texts, and the one that Wortsman et al. 2022 (arXiv:2203.05482) fine-tune, reads the image embedding of the
contrastive loss, at length one. So here the head reads that, and the folder's config stays that of the tower:
`CLIPVisionModelWithProjection.from_pretrained(folder)` and `SiglipVisionModel.from_pretrained(folder)` load the tower
without hf_soups; `import hf_soups` makes AutoModelForImageClassification and the stock pipeline load all of it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipPreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

Pixels = Float[torch.Tensor, "batch channels height width"]
Unit = Float[torch.Tensor, "batch width"]


class UnitHead(nn.Linear):
    """A linear layer that computes in float32 whatever its weights or autocast say.

    With a zero-shot head the logits are cosines times about 100: in bfloat16 they would be rounded to 0.125 and more.
    """

    def forward(self, input: Unit) -> Float[torch.Tensor, "batch classes"]:
        """Logits in float32."""
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return nn.functional.linear(input.float(), self.weight.float(), bias)


def on_unit_sphere(embeddings: Float[torch.Tensor, "batch width"]) -> Unit:
    """The embeddings at length one, in float32."""
    return nn.functional.normalize(embeddings.float(), dim=-1)


class CLIPVisionForImageClassification(CLIPVisionModelWithProjection):
    """CLIP's image tower and projection; the classifier reads the embedding at length one."""

    # The projection is pretrained and outside `vision_model`: with that as the prefix it would count as a new head.
    base_model_prefix = ""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.num_labels = _classes(config)
        self.classifier = UnitHead(config.projection_dim, self.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]  # transformers'

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]  # transformers'
        _init_head(module)

    def forward(
        self,
        pixel_values: Pixels | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """`.logits` (batch, classes) in float32, and `.loss` where `labels` are given."""
        output = super().forward(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        return _answer(self, output.image_embeds, labels, output)


class SiglipVisionForImageClassification(SiglipPreTrainedModel):
    """SigLIP's image tower with its pooling; the classifier reads the pooled embedding at length one."""

    config: SiglipVisionConfig  # type: ignore[assignment]  # as in transformers' own towers
    config_class = SiglipVisionConfig  # the annotation is a text, which transformers does not resolve
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # transformers annotates str | list

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__(config)
        self.num_labels = _classes(config)
        self.vision_model = SiglipVisionModel._from_config(config)
        self.classifier = UnitHead(config.hidden_size, self.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]  # transformers'

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]  # transformers'
        _init_head(module)

    def get_input_embeddings(self) -> nn.Module:
        """The layer that reads patches."""
        patches: nn.Module = self.vision_model.embeddings.patch_embedding
        return patches

    def forward(
        self,
        pixel_values: Pixels | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """`.logits` (batch, classes) in float32, and `.loss` where `labels` are given."""
        output = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        return _answer(self, output.pooler_output, labels, output)


def _classes(config: Any) -> int:
    return int(config.num_labels)


def _init_head(module: nn.Module) -> None:
    if isinstance(module, UnitHead):
        init.normal_(module.weight, std=module.in_features**-0.5)
        init.zeros_(module.bias)


def _answer(
    model: Any, embeddings: Float[torch.Tensor, "batch width"], labels: Any, output: Any
) -> ImageClassifierOutput:
    logits = model.classifier(on_unit_sphere(embeddings))
    loss = None if labels is None else model.loss_function(labels, logits, model.config)
    return ImageClassifierOutput(
        loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
    )
