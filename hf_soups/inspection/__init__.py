"""Inspection: whether checkpoints can be averaged, and what does not match.

`inspect` finds the checkpoints and puts it together, `comparison` has each against the first and their distances,
`table` prints it.
"""

from hf_soups.inspection.comparison import ComparedCheckpoint, Pair
from hf_soups.inspection.inspect import Inspection, inspect_checkpoints, save_json, write_aligned

__all__ = ["ComparedCheckpoint", "Inspection", "Pair", "inspect_checkpoints", "save_json", "write_aligned"]
