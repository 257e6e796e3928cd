"""The pipeline `cascade-text-classification`: used as `text-classification` is, with the same answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from hf_soups.cascades.running.readers import Pair
from hf_soups.errors import InputError
from hf_soups.pipelines.cascade import CascadePipeline

StockTexts: Any = transformers.TextClassificationPipeline  # its signatures are too narrow for what is inherited


class CascadeTextClassificationPipeline(CascadePipeline, StockTexts):  # type: ignore[misc]
    """Text classification by a cascade, of single texts or of pairs.

    Takes texts, or {"text": ..., "text_pair": ...}, one or a list, generator or data set of them; `top_k` (default: the
    best one, not in a list), `function_to_apply`, `batch_size` and `num_workers` are as in the stock pipeline. Texts
    are cut where the cascade's config says. `return_exits=True` adds "exit" (stage), "members" (that the row met) and
    "cost" to each answer.
    """

    stock_task = "text-classification"

    def _sanitize_parameters(
        self, return_exits: bool | None = None, truncation: Any = True, **parameters: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        # evaluators ask for truncation, which a cascade does anyway; what else changes the tokens would change exits
        unknown = sorted(set(parameters) - {"top_k", "function_to_apply"})
        if unknown or not truncation:
            raise InputError(
                f"{', '.join(unknown) or 'truncation=False'}: a cascade tokenises as it did when its thresholds were "
                "chosen (`max_length` in its config). Leave it out."
            )
        _, during, after = super()._sanitize_parameters(**parameters)
        return {}, during, after if return_exits is None else {**after, "return_exits": return_exits}

    def preprocess(self, inputs: Any) -> Pair:
        """One text, or one pair.

        Raises:
            InputError: if it is neither, or not what this cascade takes.
        """
        first, second = _pair(inputs)
        wants_pair = self.model.config.kind == "text-pair"
        if not isinstance(first, str) or not isinstance(second, str | None):
            raise InputError(f"got {inputs!r:.100}; expected a text, or a dictionary of 'text' and 'text_pair'.")
        if wants_pair != (second is not None):
            told = "pairs: give {'text': ..., 'text_pair': ...}" if wants_pair else "single texts, not pairs"
            raise InputError(f"got {inputs!r:.100}, but this cascade takes {told}.")
        return first, second

    def postprocess(
        self,
        model_outputs: Any,
        function_to_apply: Any = None,
        top_k: int | None = 1,
        _legacy: bool = True,
        return_exits: bool = False,
    ) -> Any:
        """The best label of one row, or a list of the `top_k` best where that was asked for."""
        answers = self.ranked(model_outputs, top_k, function_to_apply, return_exits)
        return answers[0] if _legacy and top_k == 1 else answers


def _pair(inputs: Any) -> tuple[Any, Any]:
    if isinstance(inputs, Mapping):
        return inputs.get("text"), inputs.get("text_pair")
    if isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], list) and len(inputs[0]) == 2:
        return inputs[0][0], inputs[0][1]  # the stock pipeline's older form of a pair
    return inputs, None
