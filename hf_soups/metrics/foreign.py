"""Any metric of the `evaluate` library as a function of Predictions: a script in a local folder, or from the Hub."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_soups.errors import RecipeError
from hf_soups.predictions import Predictions
from hf_soups.recipe.task import MetricByEvaluate


def load_foreign(named: MetricByEvaluate) -> Callable[[Predictions], float]:
    """A function that scores labelled predictions with a metric of `evaluate`.

    The script gets `references` (label indices) and, as it declares, `predictions` (answers) or `prediction_scores`
    (probabilities of all classes, or of the second of two where one number a row is asked for).

    Raises:
        RecipeError: if there is no such script, it may not be run, or it cannot be reached or loaded.
    """
    script = _script(named)
    if script is None and not named.trust_code:
        raise RecipeError(
            f"metric {named.load!r} is not a local folder, and a metric from the Hub is a script that would be run "
            "here. Set `trust_code: true` beside it to allow that, or give the path of a local folder."
        )
    module = _loaded(named, script)

    def compute(p: Predictions) -> float:
        return _number(named, module.compute(**_inputs(named, module, p), **named.arguments))

    return compute


def _script(named: MetricByEvaluate) -> Path | None:
    """The local script, None for a Hub name; a path that does not exist is an error."""
    path = Path(named.load).expanduser()
    if path.is_dir():
        script = path / f"{path.resolve().name}.py"
        if not script.is_file():
            raise RecipeError(f"metric folder {path} holds no {script.name}: the script is named as its folder.")
        return script
    if path.is_file():
        return path
    if path.is_absolute() or path.suffix == ".py" or named.load.startswith((".", "~")):
        raise RecipeError(f"metric {named.load!r}: no such folder or file. Check `load` in the recipe's metric.")
    return None


def _loaded(named: MetricByEvaluate, script: Path | None) -> Any:
    import evaluate

    try:
        # in memory: the metric of one process leaves no files, and two of them need no lock
        return evaluate.load(str(script or named.load), named.config, keep_in_memory=True)
    except Exception as error:  # a script runs here, and may raise anything
        if script is not None:
            raise RecipeError(f"metric {script} cannot be loaded: {type(error).__name__}: {error}") from error
        offline = " HF_HUB_OFFLINE is set." if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise RecipeError(
            f"metric {named.load!r} cannot be fetched from the Hub ({error}).{offline} Go online once so that it is "
            "cached, copy its folder here and give its path, or use a metric by name, such as accuracy."
        ) from error


def _inputs(named: MetricByEvaluate, module: Any, p: Predictions) -> dict[str, Any]:
    features = module.features[0] if isinstance(module.features, list) else module.features
    made: dict[str, Any] = {"references": p.needs_labels().tolist()}
    for name in features:
        if name == "predictions":
            made[name] = p.answers.tolist()
        elif name == "prediction_scores":
            one_number = type(features[name]).__name__ == "Value"
            if one_number and p.classes != 2:
                raise RecipeError(
                    f"metric {named.load!r} takes one number a row, but there are {p.classes} classes. "
                    "Name the `config` of it that takes the probabilities of all classes."
                )
            made[name] = (p.probs[:, 1] if one_number else p.probs).tolist()
        elif name != "references":
            raise RecipeError(
                f"metric {named.load!r} asks for {name!r}, which a classifier does not answer; "
                "known: predictions, prediction_scores, references."
            )
    return made


def _number(named: MetricByEvaluate, result: Mapping[str, Any] | None) -> float:
    values = dict(result or {})
    if named.key is None and len(values) != 1:
        raise RecipeError(
            f"metric {named.load!r} returns {', '.join(values) or 'nothing'}; say with `key` which is the score."
        )
    key = next(iter(values)) if named.key is None else named.key
    if key not in values:
        raise RecipeError(f"metric {named.load!r} returns no {key!r}, only {', '.join(values)}; correct `key`.")
    value = values[key]
    if getattr(value, "shape", None) == ():
        value = value.item()  # a NumPy scalar
    if not isinstance(value, numbers.Real):
        raise RecipeError(f"metric {named.load!r}: {key!r} is {value!r}, not one number; choose another `key`.")
    return float(value)
