"""What lies in a repo of the Hub now, and the Hub's refusals in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.hub.contents import LocalFile, RepoType
from hf_soups.weights.hub import is_repo_id
from hf_soups.weights.refusals import check_token, is_passing, one_line, refuses_token, status_of, transport_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

# What the Hub's page keeps beside the model: never a reason to refuse, never removed.
KEPT = (".gitattributes", "README.md", "LICENSE")
LONGEST_NAME = 96  # characters of a repo's id, the Hub's own limit


@dataclass(frozen=True, slots=True)
class Remote:
    """A repo at one commit; `head` is None where there is no such repo."""

    head: str | None = None
    private: bool = False
    has_revision: bool = True  # the branch that was asked for; if not, `head` is main's
    is_mains: bool = False  # another branch than main was asked for: what lies at `head` stays on main in any case
    files: Mapping[str, RepoFile] = field(default_factory=dict)

    def holds(self, file: LocalFile) -> bool:
        """Whether the same bytes lie there under the same path."""
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
    """What a repo holds at a branch, or at main where there is no such branch."""
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
def refusals_told(repo_id: str) -> Iterator[None]:
    """Turn what the Hub, or the way to it, answers with an error into one message."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise _told(repo_id, error) from error
    except transport_errors() as error:
        raise HfSoupsError(
            f"{repo_id}: {constants.ENDPOINT} cannot be reached, or broke off ({one_line(error)}). Nothing that was "
            "sent is lost: the same command again goes on from there."
        ) from error


def _told(repo_id: str, error: Any) -> HfSoupsError:
    from huggingface_hub import constants

    status, said = status_of(error), one_line(error.server_message or str(error))
    tokens = f"{constants.ENDPOINT}/settings/tokens"
    if status == 401:
        return InputError(
            f"{repo_id}: the Hub does not accept this token (401: {said}). Log in again (hf auth login), or set "
            f"HF_TOKEN to one from {tokens}."
        )
    if status == 403:
        return InputError(
            f"{repo_id}: this token may not write there (403: {said}). Make one with the right to write to that "
            f"owner's repos at {tokens}, or push under your own name."
        )
    if status == 404:
        return InputError(f"{repo_id}: not found, or not for this token (404: {said}). Check name and revision.")
    if status == 412:
        return HfSoupsError(f"{repo_id}: someone else committed meanwhile (412: {said}). Push again to compare anew.")
    again = "Try again later: what was uploaded is kept." if is_passing(error) else "Nothing was committed."
    return HfSoupsError(f"{repo_id}: the Hub answered {status}: {said}. {again}")
