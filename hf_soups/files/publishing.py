"""`push_to_hub` of soups and cascades: the Hub's part lies above them, so it is filled in when hf_soups is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

Save = Callable[[Path], object]  # writes into the folder that it is given


class Publisher(Protocol):
    """Lets something save itself into a folder, and pushes that; returns the URL."""

    def __call__(self, save: Save, repo_id: str, **options: Any) -> str:
        """As `hf_soups.hub.push_saved`, whose `options` they are."""


_publishers: list[Publisher] = []


def publish_with(publisher: Publisher) -> None:
    """Fill the slot."""
    _publishers[:] = [publisher]


class Publishable:
    """What has `save_pretrained(folder, **saving)`, with a `push_to_hub` that pushes as `hf-soups push` does."""

    __slots__ = ()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        force: bool = False,
        include: Sequence[str] = (),
        **saving: Any,
    ) -> str:
        """Save into a temporary folder and push that with a card, as `hf-soups push` does; the URL.

        Args:
            repo_id: "owner/name", or "name" under the token's own user; made where there is none.
            private: of a new repo; None leaves it to the owner's setting.
            token: default: HF_TOKEN or the one that `hf auth login` stored.
            revision: branch to commit to.
            create_pr: open a pull request instead; the URL is then its own.
            commit_message: of the commit.
            force: replace other content.
            include: patterns of further files that `save_pretrained` writes, as in .gitignore.
            saving: options of `save_pretrained`, such as max_shard_size.
        Raises:
            InputError, HfSoupsError: as `save_pretrained` and `hf_soups.hub.push`.
        """
        here: Any = self

        def save(folder: Path) -> None:
            here.save_pretrained(folder, **saving)

        return _publishers[0](
            save, repo_id, private=private, token=token, revision=revision, create_pr=create_pr,
            message=commit_message, force=force, include=include,
        )  # fmt: skip
