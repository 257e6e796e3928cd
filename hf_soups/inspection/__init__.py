"""Inspection: what of some checkpoints matches and what does not, before anything is mixed.

`sources` finds the checkpoints and their start, `rows` compares each with the first, `distances`
measures, `look` puts it together, `aligned` writes checkpoints with their labels in one order.
"""

from hf_soups.inspection.comparison import ComparedCheckpoint, Pair
from hf_soups.inspection.inspect import Inspection, inspect_checkpoints, save_json, write_aligned

__all__ = ["ComparedCheckpoint", "Inspection", "Pair", "inspect_checkpoints", "save_json", "write_aligned"]
