"""Model Stock: the mean of a few fine-tunes, pulled towards their start by how little their directions agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from hf_soups.checkpoint import Checkpoint, Source, checkpoints_of
from hf_soups.errors import InputError
from hf_soups.soups.mixing import measure, shared_names
from hf_soups.soups.mixing.geometry import cosines
from hf_soups.soups.registry import MethodInputs, soup_method
from hf_soups.soups.soup import Soup
from hf_soups.soups.whole_start import whole_start


def model_stock(ingredients: Sequence[Source], start: Source, *, threads: int = 2) -> Soup:
    """The soup t x mean(ingredients) + (1 - t) x start, with a ratio t of its own for every tensor.

    t = N cos / (1 + (N - 1) cos), where cos is the mean cosine between pairs of the N ingredients' offsets from the
    start: offsets that agree (cos 1) keep the mean, those at right angles (cos 0) fall back to the start. All weights
    are read once, streamed. Nothing is scored, so no held-out rows are needed.

    Cases that the formula leaves open:
        - cos < 0: t would leave [0, 1] and is 0, so the start is kept.
        - no ingredient moved a tensor (a frozen layer): t is 1; any t gives the same weights.
        - some moved it and others did not: such a pair's cosine counts as 0.
        - BatchNorm's measured statistics and integers: t is 1, the ingredients' own.

    Args:
        ingredients: two or more fine-tunes of `start`.
        start: what they were fine-tuned from; without their head, the heads are averaged. It is last in the soup, so
            that config, labels and processor are those of the first ingredient.
        threads: that read side by side.
    Returns:
        A soup with coefficients for every tensor; its `scores["model_stock"]` says how the cosines and t are spread.
    Raises:
        InputError: for fewer than two ingredients.
        IncompatibleCheckpoints: if names or shapes differ in more than the start's head.
        CheckpointError: if one cannot be read, or holds NaN or infinity.
    Source: Jang et al. 2024, arXiv:2403.19522, section 4.
    """
    tuned = checkpoints_of(ingredients)
    n = len(tuned)
    if n < 2:
        raise InputError(
            f"Model Stock needs at least two ingredients, got {n}: it compares how they left {start}. "
            "For one fine-tune, walk the line to its start (wise_ft)."
        )
    base = whole_start(Checkpoint.of(start, "start"), tuned, threads=threads)
    members = (*tuned, base)
    cosine = {name: mean_cosine(product) for name, product in measure(tuned, base, threads=threads).products.items()}
    ratio = {name: interpolation_ratio(cosine[name], n) if name in cosine else 1.0 for name in shared_names(members)}
    rows = {name: (*(t / n,) * n, 1 - t) for name, t in ratio.items()}
    spreads = {"cosine": _spread(list(cosine.values())), "ratio": _spread([ratio[name] for name in cosine])}
    return Soup.mixed_by_tensor(members, rows, method="model-stock", scores={"model_stock": spreads})


@soup_method("model-stock", needs_start=True)
def _model_stock(inputs: MethodInputs) -> Soup:
    return model_stock(inputs.pool, inputs.from_start(), threads=inputs.threads)


def mean_cosine(products: Float64[np.ndarray, "n n"]) -> float:
    """Mean cosine over the pairs, from the inner products of n >= 2 offsets, in [-1, 1]; 1 if none has a length.

    >>> mean_cosine(np.array([[4.0, 1.0], [1.0, 1.0]]))
    0.5
    """
    if not products.any():
        return 1.0
    pairs = np.triu_indices(len(products), k=1)
    return float(np.nan_to_num(cosines(products)[pairs]).mean())


def interpolation_ratio(cosine: float, n: int) -> float:
    """Model Stock's t for n ingredients, in [0, 1].

    >>> interpolation_ratio(1.0, 4), interpolation_ratio(0.5, 2), interpolation_ratio(-0.2, 3)
    (1.0, 0.6666666666666666, 0.0)
    """
    if cosine <= 0:  # below -1 / (n - 1) the formula would even exceed 1
        return 0.0
    return min(1.0, n * cosine / (1 + (n - 1) * cosine))


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Lowest, median and highest, over the tensors that were measured."""
    return {"min": float(np.min(values)), "median": float(np.median(values)), "max": float(np.max(values))}
