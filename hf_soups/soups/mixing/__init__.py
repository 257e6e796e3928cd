"""All weight arithmetic: coefficients x checkpoints, streamed into files or into a live model.

`spans` plans what is read together, `blocks` adds it up, by the machine code of `compiled`, `to_files` writes a
checkpoint, `live` fills a model, `geometry` measures distances and angles.
"""

from hf_soups.soups.mixing.geometry import Geometry, measure
from hf_soups.soups.mixing.spans import shared_names
from hf_soups.soups.mixing.to_files import Coefficients, coefficients_of, mix_tensor, mix_to_folder

__all__ = [
    "Coefficients",
    "Geometry",
    "coefficients_of",
    "measure",
    "mix_tensor",
    "mix_to_folder",
    "shared_names",
]
