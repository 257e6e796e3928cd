"""Certifying a plan of a frontier on rows that the search did not see."""

from __future__ import annotations

from hf_soups.cascades.certify import Certificate, certify
from hf_soups.errors import InputError
from hf_soups.from_pool.opening import open_plan


def certify_plan(
    reference: str,
    *,
    against: str | None = None,
    max_loss: float = 0.01,
    delta: float = 0.05,
    seed: int = 0,
) -> Certificate:
    """Thresholds for a plan such as `preds/frontier.json#3` that lose at most `max_loss` accuracy with 1 - `delta`.

    Args:
        reference: FILE#NUMBER.
        against: the model whose accuracy is the measure; default: all of the plan's members together.
        max_loss: of accuracy, in (0, 1).
        delta: chance that the certificate is wrong.
        seed: of the split into ordering and test rows.
    Raises:
        InputError: if the search kept no rows back, which a certificate needs.
    """
    opened = open_plan(reference)
    report = opened.parts.report
    if report is None:
        raise InputError(
            f"{opened.path}: the search saw every row, and a certificate needs rows that it did not see. "
            "Search again with --report 0.5, or with the folder of another pool."
        )
    return certify(opened.plan, report, reference=against, max_loss=max_loss, delta=delta, seed=seed)
