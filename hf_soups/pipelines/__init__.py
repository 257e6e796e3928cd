"""The tasks `cascade-image-classification` and `cascade-text-classification` of transformers' `pipeline()`."""
