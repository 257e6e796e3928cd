"""The way up to the Hub for what can save itself: a slot, filled when `hf_soups` is imported.

Pushing knows of soups, cascades and data sets, so it lies above them; they cannot import it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Publisher(Protocol):
    """Saves into a folder of its own, and pushes that; returns the URL."""

    def __call__(
        self,
        save: Callable[[Path], object],
        repo_id: str,
        *,
        private: bool | None,
        token: str | None,
        revision: str | None,
        create_pr: bool,
        message: str | None,
        force: bool,
    ) -> str:
        """As `hf_soups.hub.push_saved`."""


_publishers: list[Publisher] = []


def publish_with(publisher: Publisher) -> None:
    """Fill the slot."""
    _publishers[:] = [publisher]


def publish(
    save: Callable[[Path], object],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    force: bool = False,
) -> str:
    """Push what `save` writes into the folder that it is given; the URL of the repo, or of the pull request."""
    return _publishers[0](
        save,
        repo_id,
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
        message=message,
        force=force,
    )
