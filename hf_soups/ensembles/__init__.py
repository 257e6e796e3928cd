"""Ensembles: several answerers' predictions joined by row id into one. Needs no model.

`combine` makes one set of predictions of many, `select` chooses members and weights greedily by the `gains` of each
that could join, `curves` shows what each further copy of a model adds. All read the members block of rows by block.
"""

from hf_soups.ensembles.combine import Combine, ensemble, geometric_mean, mean, mean_logits, vote
from hf_soups.ensembles.curves import Curve, CurvePoint, member_curve, member_curves
from hf_soups.ensembles.select import Selection, select_ensemble

__all__ = [
    "Combine",
    "Curve",
    "CurvePoint",
    "Selection",
    "ensemble",
    "geometric_mean",
    "mean",
    "mean_logits",
    "member_curve",
    "member_curves",
    "select_ensemble",
    "vote",
]
