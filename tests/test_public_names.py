"""What users import."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import hf_soups


@pytest.mark.parametrize("name", hf_soups.__all__)
def test_public_names_are_what_they_say_even_after_every_submodule_is_imported(name: str) -> None:
    for module in pkgutil.walk_packages(hf_soups.__path__, "hf_soups."):
        importlib.import_module(module.name)
    value = getattr(hf_soups, name)
    assert value.__name__ == name
    assert not hasattr(value, "__path__")
    assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'soop'"):
        hf_soups.soop  # noqa: B018


def test_dir_lists_the_public_names() -> None:
    assert callable(hf_soups.uniform)  # a name that was used is there twice: as this module's own too
    assert set(hf_soups.__all__) <= set(dir(hf_soups))
    assert len(dir(hf_soups)) == len(set(dir(hf_soups)))
