"""Data: which rows a task has, and in which of three roles: train fits, select chooses, report is looked at once.

`sources` finds and reads the rows, `columns` checks them, `labels` turns their label column into class indices,
`strata` draws seeded stratified subsets, `shifts` reads report rows of other distributions, `split` is what the rest
of the package sees, `load` puts them together.
"""

from hf_soups.data.load import load_report, load_splits, splits_from_datasets
from hf_soups.data.sources import load_dataset_split
from hf_soups.data.split import Split, Splits, read_image

__all__ = ["Split", "Splits", "load_dataset_split", "load_report", "load_splits", "read_image", "splits_from_datasets"]
