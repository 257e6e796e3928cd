"""What the tests of endpoints share: quick second tries, and a token that must appear nowhere."""

from __future__ import annotations

import pytest

from hf_soups.files.endpoint import HOSTS_VARIABLE
from hf_soups.models import endpoint_requests
from tests.endpoints.server import TOKEN


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(endpoint_requests, "FIRST_PAUSE", 0.001)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv(HOSTS_VARIABLE, raising=False)
