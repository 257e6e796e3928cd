"""One commit: what may be overwritten, what is sent, and whether it arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.hub.contents import Contents
from hf_soups.hub.remote import Remote, files_at
from hf_soups.weights.refusals import one_line, transport_errors

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

SHOWN = 8  # paths at most in a message
FRESH = {".gitattributes", "README.md"}  # what the Hub itself puts into a new Space


@dataclass(slots=True)
class Order:
    """What the user asked for."""

    repo_id: str
    found: Contents
    private: bool | None
    revision: str | None
    create_pr: bool
    message: str
    force: bool  # also set when the user says yes
    confirm: Callable[[str], bool] | None
    tell: Callable[[str], object]


class Unanswered(Exception):
    """A commit, or an upload before it, that failed or got no answer."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def refuse(remote: Remote, order: Order) -> None:
    """Refuse what would be public against the user's word, and what would overwrite other content.

    Raises:
        InputError: with what to do about it.
    """
    if remote.head is None:
        return
    if order.private and not remote.private:
        raise InputError(
            f"{order.repo_id}: this repo is public, and private was asked for. Make it private in its settings, or "
            "choose another name."
        )
    if order.force or order.create_pr or remote.is_mains:
        return
    lost = remote.overwritten(order.found.files)
    if order.found.kind == "space" and set(remote.files) <= FRESH:
        return
    if lost and remote.changed(order.found.files):
        _refuse_or_ask(order, f"{order.repo_id}: the repo holds other content: {_listed(lost)}.")


def _refuse_or_ask(order: Order, told: str) -> None:
    advice = "propose the change with --create-pr, or choose another name or --revision."
    if order.confirm is None:
        raise InputError(f"{told} Replace it with --force, {advice}")
    if not order.confirm(f"{told} Replace it?"):
        raise InputError(f"{order.repo_id}: left as it is, nothing was sent. You can {advice}")
    order.force = True


def commit(api: HfApi, remote: Remote, order: Order) -> CommitInfo:
    """Send what changed, and remove what the folder lacks, in one commit.

    Raises:
        Unanswered: if the connection broke or the Hub was busy: it may have arrived nevertheless.
        HfSoupsError: if the Hub refuses the content.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = order.found.files
    added = [CommitOperationAdd(file.path, str(file.source)) for file in remote.changed(files)]
    removed = [CommitOperationDelete(path, is_folder=False) for path in remote.others(files)]
    try:
        return api.create_commit(
            order.repo_id,
            [*added, *removed],
            repo_type=order.found.repo_type,
            commit_message=order.message,
            revision=order.revision,
            create_pr=order.create_pr,
            parent_commit=remote.head,  # the Hub refuses if someone else committed since the look
        )
    except transport_errors() as error:
        raise Unanswered(error) from error
    except RuntimeError as error:
        # the client wraps a broken upload in one that names the file alone
        if isinstance(error.__cause__, transport_errors()):
            raise Unanswered(error.__cause__) from error
        raise HfSoupsError(f"{order.repo_id}: {error} Nothing was committed; push again.") from error
    except ValueError as error:  # a card's metadata, or an answer that the client does not understand
        raise HfSoupsError(f"{order.repo_id}: nothing was committed. {one_line(error)}") from error


def check_arrived(api: HfApi, order: Order, oid: str) -> None:
    """Announce no repo as good that lacks a file (one that its .gitignore names) or holds other bytes.

    Raises:
        HfSoupsError: naming the files.
    """
    there = files_at(api, order.repo_id, oid, order.found.repo_type)
    missing = Remote(oid, files=there).changed(order.found.files)
    if missing:
        raise HfSoupsError(
            f"{order.repo_id}: commit {oid} was made, but lacks {_listed([file.path for file in missing])}, or holds "
            "other bytes there. Look at the repo's .gitignore and whether the folder changed meanwhile, and push again "
            "with --force."
        )


def _listed(paths: Sequence[str]) -> str:
    more = len(paths) - SHOWN
    return ", ".join(paths[:SHOWN]) + (f" and {more} more" if more > 0 else "")
