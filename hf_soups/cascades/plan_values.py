"""A plan as JSON holds it, in a frontier's file and in a cascade's config alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hf_soups.cascades.plan import Plan
from hf_soups.files.reading import as_record


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
    return as_record(told, Plan, where, what="a plan", again="Build it again.")
