"""Predictions: what any model, soup, ensemble or cascade answered; the k likeliest classes of each row; calibration."""

from hf_soups.predictions.predictions import FORMAT, SMALLEST, Predictions, same_rows
from hf_soups.predictions.stored import id_tensor

__all__ = ["FORMAT", "SMALLEST", "Predictions", "id_tensor", "same_rows"]
