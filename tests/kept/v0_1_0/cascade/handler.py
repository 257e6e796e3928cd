"""What a Hub inference endpoint runs for a cascade; `build_cascade` puts this file into the cascade's folder."""

from __future__ import annotations

from typing import Any


class EndpointHandler:
    """Loads the cascade of a folder once and answers requests with its pipeline."""

    def __init__(self, path: str = "") -> None:
        import hf_soups.cascades.running.model  # noqa: F401  # makes cascades known to transformers

        from transformers import AutoConfig, pipeline  # isort: skip  # after that

        kind = "image" if AutoConfig.from_pretrained(path).kind == "image" else "text"
        task: Any = f"cascade-{kind}-classification"
        self.pipeline = pipeline(task, model=path)

    def __call__(self, data: dict[str, Any]) -> Any:
        """The answers to {"inputs": ..., "parameters": {...}}.

        Inputs are texts, pairs, or images (decoded, as URLs, or as base64 text), one or a list. Parameters are the
        pipeline's: `top_k`, `batch_size`, `return_exits`, ...
        """
        if "inputs" not in data:
            raise ValueError(f'a request needs "inputs"; got {sorted(data)}.')
        return self.pipeline(data["inputs"], **(data.get("parameters") or {}))
