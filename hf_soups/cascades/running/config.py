"""CascadeConfig: config.json of a cascade as transformers reads it."""

from __future__ import annotations

from dataclasses import field, fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.running.stored import Place, StoredCascade, check_stored, refuse_code, stored_of
from hf_soups.files.configs import check_config
from hf_soups.models.loading import quiet, readable


class CascadeConfig(PreTrainedConfig):
    """The members of a cascade, the plan that it follows, and the plans that `budget` can choose instead.

    Attributes:
        kind: what a row is: "image", "text" or "text-pair".
        members: the fields of a `Place` for each member.
        plan: the fields of the `Plan` as built; its thresholds, rule, temperatures and costs (with `unit` and
            `hardware`) are what runs.
        frontier: further plans over these members.
        max_length: texts are cut after so many tokens; None: at each tokenizer's own limit.
    Raises:
        InputError: if it is not consistent, names code, or points outside its folder.
    """

    model_type = "cascade"
    kind: str = "image"
    members: list[Any] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    frontier: list[Any] = field(default_factory=list)
    max_length: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_code({**kwargs, "kind": self.kind})
        stored_of({f.name: getattr(self, f.name) for f in fields(StoredCascade)})
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]  # transformers'
        if self.label2id is None and self.id2label:
            self.label2id = {str(name): int(index) for index, name in self.id2label.items()}
        if self.members:  # transformers makes an empty one to compare with
            check_stored(self._stored)

    @property
    def _stored(self) -> StoredCascade:
        return StoredCascade(**{f.name: getattr(self, f.name) for f in fields(StoredCascade)})

    @property
    def places(self) -> tuple[Place, ...]:
        """The members, in the order of their numbers."""
        return self._stored.places

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(place.name for place in self.places)

    @property
    def built(self) -> Plan:
        """The plan as built."""
        return self._stored.built

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans that `budget` chooses from, the one as built among them; of two that run alike only one."""
        return self._stored.plans

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the cascade's answers."""
        return self._stored.label_names


def read_cascade(folder: str | Path) -> CascadeConfig:
    """The config of a cascade's folder.

    Raises:
        InputError: if there is none that can be read.
    """
    with readable(folder, None, "config.json"), quiet():
        check_config(PreTrainedConfig.get_config_dict(folder)[0], folder)
        config: CascadeConfig = CascadeConfig.from_pretrained(folder)
        return config
