"""BatchNorm statistics recomputed on given batches, against statistics taken directly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.soups import uniform
from hf_soups.soups.batchnorm import recompute_batchnorm, write_batchnorm
from tests.makers.tiny import tiny_efficientnet, tiny_mobilenet_v2, tiny_resnet, tiny_vit


def batches(count: int = 3, rows: int = 8, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [{"pixel_values": 2 + torch.randn(rows, 3, 32, 32, generator=random)} for _ in range(count)]


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(pixel_values))


def test_statistics_are_the_mean_over_batches_of_each_batchs_own() -> None:
    model, seen = OneLayer(), batches()
    assert recompute_batchnorm(model, seen) == 3
    values = [b["pixel_values"].double() for b in seen]
    means = torch.stack([v.mean(dim=(0, 2, 3)) for v in values]).mean(dim=0)
    variances = torch.stack([v.var(dim=(0, 2, 3), unbiased=True) for v in values]).mean(dim=0)
    torch.testing.assert_close(model.norm.running_mean.double(), means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.norm.running_var.double(), variances, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [tiny_resnet, tiny_efficientnet, tiny_mobilenet_v2])
def test_only_statistics_change_and_what_was_there_does_not_matter(make, tmp_path: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(make(tmp_path / "m"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recompute_batchnorm(model, batches())
    once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changed = {name for name, tensor in once.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.fill_(77)
    recompute_batchnorm(model, batches())
    assert all(torch.equal(tensor, once[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_momenta_are_put_back(training: bool) -> None:
    model = OneLayer().train(training)
    model.drop.eval()
    recompute_batchnorm(model, batches())
    assert (model.training, model.norm.training, model.drop.training) == (training, training, False)
    assert model.norm.momentum == 0.1


def test_no_batch_and_statistics_that_are_not_finite_are_errors() -> None:
    with pytest.raises(HfSoupsError, match="there was no batch of train rows"):
        recompute_batchnorm(OneLayer(), [])
    broken = [{"pixel_values": torch.full((4, 3, 2, 2), torch.inf)}]
    with pytest.raises(HfSoupsError, match=r"norm\.running_mean is not finite"):
        recompute_batchnorm(OneLayer(), broken)


@pytest.mark.parametrize("make", [tiny_resnet, tiny_efficientnet, tiny_mobilenet_v2])
def test_written_statistics_are_what_transformers_loads(make, tmp_path: Path) -> None:
    pool = [Checkpoint(make(tmp_path / f"m{i}", seed=i)) for i in range(2)]
    soup = uniform(pool).save_pretrained(tmp_path / "soup")
    model = AutoModelForImageClassification.from_pretrained(soup)
    recompute_batchnorm(model, batches())
    written = write_batchnorm(model, soup)
    again = AutoModelForImageClassification.from_pretrained(soup)
    assert written == sum(name.endswith(("running_mean", "running_var")) for name in model.state_dict())
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):  # counts batches, which no prediction depends on
            assert torch.equal(again.state_dict()[name], tensor), name
    pixels = batches(1, seed=5)[0]
    with torch.inference_mode():
        np.testing.assert_array_equal(again(**pixels).logits, model(**pixels).logits)


def test_a_model_without_batchnorm_has_nothing_to_write(tmp_path: Path) -> None:
    folder = tiny_vit(tmp_path / "vit")
    with pytest.raises(HfSoupsError, match="the BatchNorm statistics there are not those of ViT"):
        write_batchnorm(AutoModelForImageClassification.from_pretrained(folder), folder)
