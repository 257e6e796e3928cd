"""Inspection: what of some checkpoints matches and what does not, before anything is mixed.

`sources` finds the checkpoints and their start, `rows` compares each with the first, `distances`
measures, `look` puts it together, `aligned` writes checkpoints with their labels in one order.
"""

from hf_soups.inspection.inspect import Inspection, inspect_checkpoints, save_json, write_aligned
from hf_soups.inspection.rows import Pair, Row

__all__ = ["Inspection", "Pair", "Row", "inspect_checkpoints", "save_json", "write_aligned"]
