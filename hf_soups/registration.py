"""Making cascades and CLIP classifiers known to transformers, whichever package is imported first.

transformers has no entry points, and importing it takes seconds, which `import hf_soups` must not. So a finder waits on
`sys.meta_path`: when one of the modules below has been imported, what belongs there is registered.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any


def register_with_transformers() -> None:
    """Register now with what is imported already, and later with what will be. Calling it again changes nothing."""
    if any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Waiting(_AFTER))
    for name, register in _AFTER.items():
        if name in sys.modules:
            register(sys.modules[name])


def _config(module: Any) -> None:
    from hf_soups.cascades.running.config import CascadeConfig

    module.AutoConfig.register(CascadeConfig.model_type, CascadeConfig, exist_ok=True)


def _models(module: Any) -> None:
    from hf_soups.cascades.running.config import CascadeConfig
    from hf_soups.cascades.running.model import CascadeForImageClassification, CascadeForSequenceClassification

    for auto, model in (
        (module.AutoModelForImageClassification, CascadeForImageClassification),
        (module.AutoModelForSequenceClassification, CascadeForSequenceClassification),
    ):
        auto.register(CascadeConfig, model, exist_ok=True)
    _towers()


def _image_processors(module: Any) -> None:
    from hf_soups.cascades.running.config import CascadeConfig
    from hf_soups.cascades.running.modeling_cascade import CascadeImageProcessor

    module.AutoImageProcessor.register(
        CascadeConfig, image_processor_classes={"pil": CascadeImageProcessor}, exist_ok=True
    )


def _tokenizers(module: Any) -> None:
    from hf_soups.cascades.running.config import CascadeConfig
    from hf_soups.cascades.running.modeling_cascade import CascadeTokenizer

    module.AutoTokenizer.register(CascadeConfig, tokenizer_class=CascadeTokenizer, exist_ok=True)


def _towers(_: Any = None) -> None:
    """Image towers as classifiers: transformers has none for the configs of bare ones.

    Modules that they are made from import the auto classes half-way. While one of them does, this waits for its end.
    """
    auto = sys.modules.get(_AUTO)
    half = any(name in sys.modules and not hasattr(sys.modules[name], last) for name, last in _TOWERS_NEED.items())
    if auto is None or half:
        return
    from hf_soups.models.clip_model import CLIPVisionForImageClassification, SiglipVisionForImageClassification

    for model in (CLIPVisionForImageClassification, SiglipVisionForImageClassification):
        auto.AutoModelForImageClassification.register(model.config_class, model, exist_ok=True)


def _pipelines(module: Any) -> None:
    """The tasks, each with the place of its class, as transformers' own: the class is imported when it is asked for.

    Not by `register_pipeline`: what that leaves on the class makes `save_pretrained` copy code into the folder and name
    it in config.json, and such a folder can be loaded with `trust_remote_code` only.
    """
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    tasks = module.PIPELINE_REGISTRY.supported_tasks
    for kind, place, auto in (
        ("image", "CascadeImageClassificationPipeline", AutoModelForImageClassification),
        ("text", "CascadeTextClassificationPipeline", AutoModelForSequenceClassification),
    ):
        entry = {"impl": f"hf_soups.cascades.pipelines.{place}", "pt": (auto,), "type": kind}
        tasks.setdefault(f"cascade-{kind}-classification", entry)


def _evaluators(module: Any) -> None:
    """Let evaluators take a ready pipeline again.

    evaluate 0.4 asks whether it is a `transformers.TFPreTrainedModel`, a class that transformers 5 no longer has. What
    the evaluators see as `transformers` gets one that nothing is an instance of; transformers itself stays as it is.
    """
    import transformers

    if module.TRANSFORMERS_AVAILABLE and not hasattr(transformers, "TFPreTrainedModel"):
        module.transformers = _WithOldName(transformers)


class _WithOldName:
    TFPreTrainedModel = type("TFPreTrainedModel", (), {})

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_AUTO = "transformers.models.auto.modeling_auto"
_TOWERS_NEED = {  # and what each of them holds once it has run
    "transformers.modeling_layers": "GradientCheckpointingLayer",
    "transformers.models.clip.modeling_clip": "CLIPVisionModelWithProjection",
    "transformers.models.siglip.modeling_siglip": "SiglipVisionModel",
    "hf_soups.models.clip_model": "SiglipVisionForImageClassification",
}
_AFTER: Mapping[str, Callable[[Any], None]] = {
    "transformers.models.auto.configuration_auto": _config,
    _AUTO: _models,
    "transformers.models.auto.image_processing_auto": _image_processors,
    "transformers.models.auto.tokenization_auto": _tokenizers,
    **dict.fromkeys(_TOWERS_NEED, _towers),
    "transformers.pipelines": _pipelines,
    "evaluate.evaluator.base": _evaluators,
}


class _Waiting:
    """A finder that finds nothing itself: it adds a step to the loading of a few modules."""

    def __init__(self, after: Mapping[str, Callable[[Any], None]]) -> None:
        self.after = after

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders give, for the modules waited for; None for all others."""
        if name not in self.after:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Then(spec.loader, self.after[name])  # type: ignore[assignment]  # delegates the rest
                return spec
        return None


class _Then:
    """A loader that calls a function with the module once it has run."""

    def __init__(self, loader: Any, then: Callable[[Any], None]) -> None:
        self.loader, self.then = loader, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """The module as its own loader makes it."""
        return self.loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then register."""
        spec = module.__spec__
        if spec is not None:
            spec.loader = self.loader  # what others read of the module is as without us
        self.loader.exec_module(module)
        self.then(module)
