"""A repo of the Hub: what it holds, what may be overwritten, one commit, and whether that arrived."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.files.downloads import is_repo_id
from hf_soups.files.hub_refusals import check_token, is_passing, one_line, refuses_token, status_of, transport_errors
from hf_soups.hub.contents import Contents, LocalFile, RepoType

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi, RepoFile


SHOWN = 8  # paths at most in a message
FRESH = {".gitattributes", "README.md"}  # what the Hub itself puts into a new Space
# What the Hub itself or its web page adds: never a reason to refuse, never removed.
KEPT = (".gitattributes", "README.md", "LICENSE")
LONGEST_NAME = 96  # characters of a repo's id, the Hub's own limit


@dataclass(frozen=True, slots=True)
class Remote:
    """A repo at one commit; `head` is None where there is no such repo."""

    head: str | None = None
    private: bool = False
    has_revision: bool = True  # there is the branch to push to; if not, `head` is main's
    is_mains: bool = False  # another branch at main's commit: whatever is replaced there, main keeps it
    files: Mapping[str, RepoFile] = field(default_factory=dict)

    def holds(self, file: LocalFile) -> bool:
        """Whether the repo has the same bytes under the same path."""
        there = self.files.get(file.path)
        if there is None or there.size != file.size:
            return False
        return there.lfs.sha256 == file.sha256 if there.lfs else there.blob_id == file.git_sha

    def changed(self, files: Sequence[LocalFile]) -> list[LocalFile]:
        """Those of `files` that are not there, or with another content."""
        return [file for file in files if not self.holds(file)]

    def others(self, files: Sequence[LocalFile]) -> list[str]:
        """Paths there that `files` lack, apart from what the Hub's page keeps."""
        return sorted(set(self.files) - {file.path for file in files} - set(KEPT))

    def overwritten(self, files: Sequence[LocalFile]) -> list[str]:
        """Paths there with another content than that of `files`, and paths that `files` lack."""
        replaced = [file.path for file in self.changed(files) if file.path in self.files]
        return sorted({*replaced, *self.others(files)})


def look(api: HfApi, repo_id: str, revision: str | None, repo_type: RepoType = "model") -> Remote:
    """What a repo holds at a branch; at main where there is no such branch."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        main = info = api.repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError as error:
        if refuses_token(error):
            raise
        return Remote()
    branch, has_revision = revision not in (None, "main"), True
    if branch:
        try:
            info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
        except RevisionNotFoundError:
            has_revision = False
    head = str(info.sha)
    there = files_at(api, repo_id, head, repo_type)
    return Remote(head, bool(info.private), has_revision, branch and head == main.sha, there)


def files_at(api: HfApi, repo_id: str, commit: str, repo_type: RepoType = "model") -> dict[str, RepoFile]:
    """Every file of one commit by its path."""
    from huggingface_hub import RepoFile

    tree = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def url_of(repo_id: str, repo_type: RepoType) -> str:
    """The page of a repo."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"


def check_name(repo_id: str) -> None:
    """Refuse what no repo can be called.

    Raises:
        InputError: with what was expected.
    """
    if not is_repo_id(repo_id) or len(repo_id) > LONGEST_NAME or repo_id.endswith((".git", ".ipynb")):
        raise InputError(
            f'{repo_id!r} is no name of a repo. Expected "owner/name" or "name": letters, digits, "-", "_" and ".", at '
            f"most {LONGEST_NAME} characters, not ending in .git."
        )


def check_access(token: str | None) -> None:
    """Refuse to begin offline, without a token, or with what is none.

    Raises:
        InputError: with what to do about it.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise InputError("offline mode is on (HF_HUB_OFFLINE), nothing is pushed. Unset it, or look with --dry-run.")
    check_token(token)
    if not (token or get_token()):
        raise InputError(
            "no token: a push needs one with the right to write. Log in (hf auth login) or set HF_TOKEN; tokens are "
            f"made at {constants.ENDPOINT}/settings/tokens."
        )


@contextmanager
def hub_errors_explained(repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub, and of the connection to it, into one message that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise _explained(repo_id, error) from error
    except transport_errors() as error:
        raise HfSoupsError(
            f"{repo_id}: {constants.ENDPOINT} cannot be reached, or broke off ({one_line(error)}). Run the "
            "same command again: what was uploaded is kept."
        ) from error


def _explained(repo_id: str, error: Any) -> HfSoupsError:
    from huggingface_hub import constants

    status, answer = status_of(error), one_line(error.server_message or str(error))
    tokens = f"{constants.ENDPOINT}/settings/tokens"
    if status == 401:
        return InputError(
            f"{repo_id}: the Hub does not accept this token (401: {answer}). Log in again (hf auth login), or set "
            f"HF_TOKEN to one from {tokens}."
        )
    if status == 403:
        return InputError(
            f"{repo_id}: this token may not write there (403: {answer}). Make one with the right to write to that "
            f"owner's repos at {tokens}, or push under your own name."
        )
    if status == 404:
        return InputError(f"{repo_id}: not found, or not for this token (404: {answer}). Check name and revision.")
    if status == 412:
        return HfSoupsError(
            f"{repo_id}: someone else committed meanwhile (412: {answer}). Push again to compare with it."
        )
    again = "Try again later: what was uploaded is kept." if is_passing(error) else "Nothing was committed."
    return HfSoupsError(f"{repo_id}: the Hub answered {status}: {answer}. {again}")


@dataclass(slots=True)
class PushRequest:
    """What the user asked for."""

    repo_id: str
    contents: Contents
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


def refuse(remote: Remote, request: PushRequest) -> None:
    """Refuse what would be public against the user's word, and what would overwrite other content.

    Raises:
        InputError: with what to do about it.
    """
    if remote.head is None:
        return
    if request.private and not remote.private:
        raise InputError(
            f"{request.repo_id}: this repo is public, and private was asked for. Make it private in its settings, or "
            "choose another name."
        )
    if request.force or request.create_pr or remote.is_mains:
        return
    lost = remote.overwritten(request.contents.files)
    if request.contents.kind == "space" and set(remote.files) <= FRESH:
        return
    if lost and remote.changed(request.contents.files):
        _refuse_or_ask(request, f"{request.repo_id}: the repo holds other content: {_listed(lost)}.")


def _refuse_or_ask(request: PushRequest, problem: str) -> None:
    advice = "propose the change with --create-pr, or choose another name or --revision."
    if request.confirm is None:
        raise InputError(f"{problem} Replace it with --force, {advice}")
    if not request.confirm(f"{problem} Replace it?"):
        raise InputError(f"{request.repo_id}: left as it is, nothing was sent. You can {advice}")
    request.force = True


def commit(api: HfApi, remote: Remote, request: PushRequest) -> CommitInfo:
    """Send what changed, and remove what the folder lacks, in one commit.

    Raises:
        Unanswered: if the connection broke or the Hub was busy: it may have arrived nevertheless.
        HfSoupsError: if the Hub refuses the content.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = request.contents.files
    added = [CommitOperationAdd(file.path, str(file.source)) for file in remote.changed(files)]
    removed = [CommitOperationDelete(path, is_folder=False) for path in remote.others(files)]
    try:
        return api.create_commit(
            request.repo_id,
            [*added, *removed],
            repo_type=request.contents.repo_type,
            commit_message=request.message,
            revision=request.revision,
            create_pr=request.create_pr,
            parent_commit=remote.head,  # the Hub refuses if someone else committed since the look
        )
    except transport_errors() as error:
        raise Unanswered(error) from error
    except RuntimeError as error:
        # the client wraps a broken upload in one that names the file alone
        if isinstance(error.__cause__, transport_errors()):
            raise Unanswered(error.__cause__) from error
        raise HfSoupsError(f"{request.repo_id}: {error} Nothing was committed; push again.") from error
    except ValueError as error:  # a card's metadata, or an answer that the client does not understand
        raise HfSoupsError(f"{request.repo_id}: nothing was committed. {one_line(error)}") from error


def check_arrived(api: HfApi, request: PushRequest, oid: str) -> None:
    """Refuse to call a push done if the repo lacks a file (its .gitignore may name it) or holds other bytes.

    Raises:
        HfSoupsError: naming the files.
    """
    there = files_at(api, request.repo_id, oid, request.contents.repo_type)
    missing = Remote(oid, files=there).changed(request.contents.files)
    if missing:
        raise HfSoupsError(
            f"{request.repo_id}: commit {oid} was made, but lacks {_listed([file.path for file in missing])}, or holds "
            "other bytes there. Look at the repo's .gitignore and whether the folder changed meanwhile, and push again "
            "with --force."
        )


def _listed(paths: Sequence[str]) -> str:
    more = len(paths) - SHOWN
    return ", ".join(paths[:SHOWN]) + (f" and {more} more" if more > 0 else "")
