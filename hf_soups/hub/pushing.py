"""A soup's or cascade's folder to a repo of the Hub: one commit, checked after it was made."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.hub.contents import Contents, LocalFile, contents
from hf_soups.hub.remote import (
    Remote,
    check_access,
    check_name,
    files_at,
    is_passing,
    look,
    one_line,
    refusals_told,
    status_of,
    transport_errors,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

WAITS = (1.0, 4.0, 15.0)  # seconds before another try; the client itself retries uploads within each
SHOWN = 8  # paths at most in a message
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did, or with `dry_run` would send."""

    url: str  # of the repo or, where one was opened, of the pull request
    commit: str | None  # that holds the files; None for a dry run
    files: tuple[LocalFile, ...]  # the whole folder, also what was there already
    unchanged: bool  # the same content was there: no commit was made
    left_out: tuple[tuple[str, str], ...] = ()  # path and why

    def words(self) -> list[str]:
        """What to tell the user, line by line."""
        total = sum(file.size for file in self.files)
        lines = [f"  {file.size:>13,} bytes  {file.path}" for file in self.files]
        lines += [f"  left out: {path} ({why})" for path, why in self.left_out]
        if self.commit is None:
            return [f"Would push {len(self.files)} files, {total:,} bytes, to {self.url}; nothing was sent:", *lines]
        if self.unchanged:
            return [f"{self.url} holds the same {len(self.files)} files already: no commit was made."]
        return [f"Pushed {len(self.files)} files, {total:,} bytes, as one commit to {self.url}:", *lines]


class _Unanswered(Exception):
    """A commit, or an upload before it, that failed or got no answer."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True, slots=True)
class _Order:
    """What the user asked for."""

    repo_id: str
    found: Contents
    private: bool | None
    revision: str | None
    create_pr: bool
    message: str
    force: bool


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Pushed:
    """Push a soup or a cascade to a model repo of the Hub in one commit, made only if something changed.

    The repo is created where there is none. Logs, locks, partial files, pickles, hidden files and cached predictions
    stay here. A try that fails for a busy Hub or a broken connection is made again, up to three times, each after a
    look at what arrived.

    Args:
        folder: of a soup (soup.json) or a cascade.
        repo_id: "owner/name", or "name" under the token's own user.
        private: of a new repo; None leaves it to the owner's setting.
        revision: branch to commit to, made from main where there is none.
        create_pr: open a pull request instead of committing to the branch.
        token: default: HF_TOKEN or the one that `hf auth login` stored.
        message: first line of the commit.
        dry_run: look at the folder only; the Hub is not asked anything.
        force: replace what a repo holds. Files that the folder lacks are removed in the same commit, apart from
            README.md, LICENSE and .gitattributes.
    Raises:
        InputError: if the folder is neither soup nor cascade; for a name that is none; offline; without a token that
            may write there; if the repo holds other content and neither `force` nor `create_pr` is given.
        CheckpointError: if the weights are missing or corrupt.
        HfSoupsError: if the Hub cannot be reached, or fails again and again.
    """
    from huggingface_hub import HfApi, constants

    check_name(repo_id)
    found = contents(folder)
    if dry_run:
        return Pushed(f"{constants.ENDPOINT}/{repo_id}", None, found.files, False, found.left_out)
    check_access(token)
    api = HfApi(token=token, library_name="hf_soups")
    with refusals_told(repo_id):
        whole = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        told = message or f"Push a {found.kind} with hf_soups"
        return _patiently(api, _Order(whole, found, private, revision, create_pr, told, force))


def _patiently(api: HfApi, order: _Order) -> Pushed:
    tried = False  # whether a commit was sent, which may have arrived though its answer did not
    waits = iter(WAITS)
    failures: tuple[type[Exception], ...] = (_Unanswered, *transport_errors())
    while True:
        try:
            return _push_once(api, order, tried)
        except failures as error:
            sent = isinstance(error, _Unanswered)
            cause = error.cause if isinstance(error, _Unanswered) else error
            # a pull request whose answer was lost may have been opened: a second one would be no repair
            twice = sent and order.create_pr and status_of(cause) is None
            wait = None if twice or not is_passing(cause) else next(waits, None)
            if wait is None:
                raise cause from None
            _log.warning("%s: %s; trying again in %g s", order.repo_id, one_line(cause), wait)
            tried = tried or sent
        time.sleep(wait)


def _push_once(api: HfApi, order: _Order, tried: bool) -> Pushed:
    files = order.found.files
    remote = look(api, order.repo_id, order.revision)
    if remote.head is None:
        api.create_repo(order.repo_id, private=order.private, exist_ok=True)
        remote = look(api, order.repo_id, order.revision)
    if remote.head is None:
        raise InputError(
            f"{order.repo_id}: the Hub has this repo, but does not show it to this token. Use a token with the right "
            "to read and write it, or another name."
        )
    _refuse(remote, order)
    url = f"{api.endpoint}/{order.repo_id}"
    if remote.has_revision and not remote.changed(files) and not (order.force and remote.others(files)):
        return Pushed(url, remote.head, files, not tried, order.found.left_out)
    if order.revision and not remote.has_revision:
        api.create_branch(order.repo_id, branch=order.revision, revision=remote.head, exist_ok=True)
    made = _commit(api, remote, order)
    _check_arrived(api, order.repo_id, made.oid, files)
    return Pushed(made.pr_url or url, made.oid, files, False, order.found.left_out)


def _refuse(remote: Remote, order: _Order) -> None:
    """Refuse what would be public against the user's word, and what would overwrite other content."""
    if order.private and not remote.private:
        raise InputError(
            f"{order.repo_id}: this repo is public, and private was asked for. Make it private in its settings, or "
            "choose another name."
        )
    if order.force or order.create_pr or remote.is_mains:
        return
    lost = remote.overwritten(order.found.files)
    if lost and remote.changed(order.found.files):
        raise InputError(
            f"{order.repo_id}: the repo holds other content: {_listed(lost)}. Replace it with --force, propose the "
            "change with --create-pr, or choose another name or --revision."
        )


def _commit(api: HfApi, remote: Remote, order: _Order) -> CommitInfo:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = order.found.files
    added = [CommitOperationAdd(file.path, str(file.source)) for file in remote.changed(files)]
    removed = [CommitOperationDelete(path, is_folder=False) for path in remote.others(files)]
    try:
        return api.create_commit(
            order.repo_id,
            [*added, *removed],
            commit_message=order.message,
            revision=order.revision,
            create_pr=order.create_pr,
            parent_commit=remote.head,  # the Hub refuses if someone else committed since the look
        )
    except transport_errors() as error:
        raise _Unanswered(error) from error
    except RuntimeError as error:
        # the client wraps a broken upload in one that names the file alone
        if isinstance(error.__cause__, transport_errors()):
            raise _Unanswered(error.__cause__) from error
        raise HfSoupsError(f"{order.repo_id}: {error} Nothing was committed; push again.") from error
    except ValueError as error:  # a card's metadata, or an answer that the client does not understand
        raise HfSoupsError(f"{order.repo_id}: nothing was committed. {one_line(error)}") from error


def _check_arrived(api: HfApi, repo_id: str, commit: str, files: Sequence[LocalFile]) -> None:
    """Announce no repo as good that lacks a file (one that its .gitignore names) or holds other bytes."""
    missing = Remote(commit, files=files_at(api, repo_id, commit)).changed(files)
    if missing:
        raise HfSoupsError(
            f"{repo_id}: commit {commit} was made, but lacks {_listed([file.path for file in missing])}, or holds "
            "other bytes there. Look at the repo's .gitignore and whether the folder changed meanwhile, and push again "
            "with --force."
        )


def _listed(paths: Sequence[str]) -> str:
    more = len(paths) - SHOWN
    return ", ".join(paths[:SHOWN]) + (f" and {more} more" if more > 0 else "")
