"""LiveScorer: the score of a soup on encoded rows, measured with one live model whose weights are swapped in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_soups.metrics import Metric
from hf_soups.mixing.live import LiveMixer
from hf_soups.predict import NonFiniteLogits, predict_split
from hf_soups.predictions import Predictions
from hf_soups.soups.batchnorm import recompute_batchnorm
from hf_soups.soups.search import Score
from hf_soups.soups.soup import Soup

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.families.family import Encoded, Family


@dataclass(frozen=True, eq=False)
class LiveScorer:
    """Scores soups on one split; callable, as `greedy` wants it: higher is better, NaN for a soup that answers NaN.

    Rows are encoded once. Greedy's soups (members, then one candidate) cost one checkpoint's reading each, because
    the mixer keeps the members' running sum.
    """

    family: Family
    model: PreTrainedModel
    encoded: Encoded
    split: Split
    metric: Metric
    mixer: LiveMixer
    batch_size: int = 64
    # train batches for BatchNorm statistics of mixtures; None keeps the ingredients' average
    batchnorm_batches: Callable[[], Iterable[Mapping[str, torch.Tensor]]] | None = None
    tie_break: Metric | None = None  # decides where the metric's values are equal

    def __call__(self, soup: Soup) -> Score:
        """The soup's score on the split, its sign turned where lower is better; a tuple where ties are broken."""
        try:
            return self.value_of(self.predictions(soup))
        except NonFiniteLogits:  # the model answers NaN: what a diverged ingredient does
            return math.nan if self.tie_break is None else (math.nan, math.nan)

    def value_of(self, answers: Predictions) -> Score:
        """The score of any answers to these rows."""
        value = higher_is_better(self.metric, answers)
        return value if self.tie_break is None else (value, higher_is_better(self.tie_break, answers))

    def predictions(self, soup: Soup) -> Predictions:
        """What the soup answers on the split."""
        self.load(soup)
        return self.answers(self.encoded, self.split, name=soup.method or "soup")

    def load(self, soup: Soup) -> None:
        """Put the soup's weights into the live model."""
        if soup.is_uniform and len(soup.ingredients) > 1:  # a single one would drop the members' sum
            self.mixer.set_uniform(soup.ingredients[:-1], soup.ingredients[-1])
        else:
            self.mixer.load(soup.ingredients, soup.weights)
        if len(soup.ingredients) > 1:  # a single ingredient keeps its own
            self.recompute_batchnorm()

    def recompute_batchnorm(self) -> None:
        """Measure the live model's statistics anew, if that is how this scorer scores."""
        if self.batchnorm_batches is not None:
            recompute_batchnorm(self.model, self.batchnorm_batches())

    def answers(self, encoded: Encoded, split: Split, *, name: str) -> Predictions:
        """What the live model, as it is now, answers on any rows."""
        return predict_split(self.model, self.family, encoded, split, batch_size=self.batch_size, name=name)


def higher_is_better(metric: Metric, answers: Predictions) -> float:
    """The metric's value, its sign turned where lower is better."""
    value = metric.compute(answers)
    return value if metric.greater_is_better else -value
