"""A plan as JSON holds it, in a frontier's file and in a cascade's config alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Rule
from hf_soups.errors import InputError


def plan_values(plan: Plan) -> dict[str, Any]:
    """The fields of a plan as JSON holds them; what is not known is left out.

    >>> plan_values(Plan(("a",), (), (1.0,)))["members"]
    ['a']
    """
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(plan).items()}
    return {name: v for name, v in told.items() if v is not None and not (isinstance(v, float) and math.isnan(v))}


def plan_of(told: Mapping[str, Any], where: str = "config.json of the cascade") -> Plan:
    """The plan that `plan_values` wrote; keys of later versions are left out.

    Raises:
        InputError: if something is missing or not allowed.
    """
    try:
        known = {f.name: told[f.name] for f in fields(Plan) if told.get(f.name) is not None}
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        return Plan(**{**known, "rule": Rule(**told.get("rule", {}))})
    except (TypeError, AttributeError) as error:
        raise InputError(f"{where} holds a plan that is none ({error}). Build it again.") from error
