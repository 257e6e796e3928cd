"""All weight arithmetic: coefficients x checkpoints, streamed into files or into a live model.

`spans` plans what is read together, `blocks` adds it up, `to_files` writes a checkpoint, `live` fills a model.
"""

from hf_soups.mixing.to_files import mix_tensor, mix_to_folder, mixed_tensor

__all__ = ["mix_tensor", "mix_to_folder", "mixed_tensor"]
