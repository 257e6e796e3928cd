"""A folder to a repo of the Hub: what it is decides what is sent; one commit, only if something changed, checked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import InputError
from hf_soups.files.hub_refusals import check_token, is_passing, one_line, status_of, transport_errors
from hf_soups.files.writing import temporary_folder
from hf_soups.hub.contents import CALLED, REPO_TYPES, Contents, Kind, LeftOut, LocalFile, Stage, kind_of, listing
from hf_soups.hub.data_sets import board_contents, pool_contents
from hf_soups.hub.models import PageFiles, model_contents, space_contents
from hf_soups.hub.repo import (
    PushRequest,
    Unanswered,
    check_access,
    check_arrived,
    check_name,
    commit,
    hub_errors_explained,
    look,
    refuse,
    url_of,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi


WAITS = (1.0, 4.0, 15.0)  # seconds before another try; the client itself retries uploads within each
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did, or with `dry_run` would send."""

    kind: Kind
    url: str  # of the repo or, where one was opened, of the pull request
    commit: str | None  # that holds the files; None for a dry run
    files: tuple[LocalFile, ...]  # the whole content, also what was there already; made files are gone by now
    unchanged: bool  # the same content was there: no commit was made
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    usage: str = ""  # Python that loads it
    card: str = ""  # README.md

    def __repr__(self) -> str:
        return f"Pushed({self.words()[0].rstrip('.:')})"

    def words(self) -> list[str]:
        """Lines for the user; of a dry run also the files, and the card at the end."""
        total = sum(file.size for file in self.files)
        notes = [f"note: {note}" for note in self.notes]
        if self.commit is None:
            first = f"Would push {len(self.files)} files, {total:,} bytes, to {self.url}; nothing was sent:"
            files = listing(self.files, self.left_out)
            return [first, *files, *notes, *self._unchecked(), "", "README.md:", *self.card.splitlines()]
        if self.unchanged:
            return [f"{self.url} holds the same {len(self.files)} files already: no commit was made.", *self._next()]
        return [
            f"Pushed {len(self.files)} files, {total:,} bytes, as one commit to {self.url}.", *notes, *self._next(),
        ]  # fmt: skip

    def _unchecked(self) -> list[str]:
        if self.kind not in ("soup", "cascade", "space"):
            return []
        return ["note: the card's code was not run: a push runs it against the folder first, and stops where it fails."]

    def _next(self) -> list[str]:
        if self.kind == "space":
            return ["Next: open that page; building the Space takes some minutes."]
        merged = "once it is merged, " if "/discussions/" in self.url else ""
        return [f"Next: {merged}{self.usage}"]


def pushed(
    contents: Contents, url: str, commit: str | None, *, revision: str | None = None, unchanged: bool = False
) -> Pushed:
    """The outcome of a push of these contents."""
    named = f', revision="{revision}"' if revision else ""
    return Pushed(
        contents.kind, url, commit, contents.files, unchanged, contents.left_out, contents.notes,
        contents.usage.replace("{revision}", named), contents.card,
    )  # fmt: skip


@contextmanager
def gathered(
    folder: str | Path,
    repo_id: str,
    *,
    page: PageFiles | None = None,
    dry_run: bool = False,
    include: Sequence[str] = (),
) -> Iterator[Contents]:
    """A folder as it would be pushed to a repo; files that are made for the push are gone when the block ends.

    Args:
        folder: of a soup, a cascade, a leaderboard or a pool; nothing is written there but a card that is missing.
        repo_id: names the repo in the cards that are made.
        page: make a Space of a cascade, with these files.
        dry_run: do not even write a card.
        include: patterns of further files to send, as in .gitignore.
    Raises:
        InputError: if it is none of them, holds what may not be pushed, or has a card that its files contradict.
        CheckpointError, PredictionsError: if weights or predictions are missing or corrupt.
    """
    at = Path(folder).expanduser()
    kind = kind_of(at)
    if page is not None and kind != "cascade":
        raise InputError(f"{at} is a {CALLED[kind]}: a Space is made of a cascade. Push it without --space.")
    with temporary_folder("push") as place:
        stage = Stage(place)
        if page is not None:
            yield space_contents(at, stage, page, include)
        elif kind == "pool":
            yield pool_contents(at, repo_id, stage, include)
        elif kind == "leaderboard":
            yield board_contents(at, repo_id, stage, include)
        else:
            yield model_contents(at, kind, repo_id, stage, include, write=not dry_run)


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
    space: PageFiles | None = None,
    include: Sequence[str] = (),
    confirm: Callable[[str], bool] | None = None,
    tell: Callable[[str], object] | None = None,
) -> Pushed:
    """Push a soup, a cascade, a leaderboard or a pool of predictions to the Hub in one commit, if something changed.

    Soups and cascades become model repos, leaderboards and pools data sets. The repo is created where there is none.
    Only what hf_soups writes into such a folder is sent, with what a model needs; everything else is listed and stays
    here, unless `include` names it. The list comes before anything is sent. A soup or cascade goes with a card, written
    into the folder where there is none, whose figures are those of its files and whose code was run against the folder
    before anything is sent. A try that fails for a busy Hub or a broken connection is made again, up to three times,
    each after a look at what arrived.

    Args:
        folder: that hf_soups wrote: with soup.json, a cascade's config.json, leaderboard.csv or pool.json.
        repo_id: "owner/name", or "name" under the token's own user.
        private: of a new repo; None leaves it to the owner's setting.
        revision: branch to commit to, made from main where there is none.
        create_pr: open a pull request instead of committing to the branch.
        token: default: HF_TOKEN or the one that `hf auth login` stored.
        message: first line of the commit.
        dry_run: look at the folder only: the Hub is not asked anything, nothing is written, the card's code is not run.
        force: replace what a repo holds. Files that the folder lacks are removed in the same commit, apart from
            README.md, LICENSE and .gitattributes.
        space: make a Space of a cascade, with the page's files that this gives: `hf_soups.demo.space_files`.
        include: patterns of further files to send, relative to the folder and as in .gitignore: "notes.txt", "*.csv",
            "data/". Keys, tokens and passwords go only by their whole path.
        confirm: asked, with a question, before other content is replaced without `force`; True replaces it.
        tell: called with what is begun, before anything that takes long.
    Raises:
        InputError: if the folder is none of these; for a name that is none; for a card that its files contradict or
            whose code fails; offline; without a token that may write there; if the repo holds other content and neither
            `force` nor `create_pr` is given.
        CheckpointError, PredictionsError: if weights or predictions are missing or corrupt.
        HfSoupsError: if the Hub cannot be reached, or fails again and again.
    """
    from huggingface_hub import HfApi

    check_name(repo_id)
    kind = "space" if space is not None else kind_of(Path(folder).expanduser())
    if dry_run:
        check_token(token)
        with gathered(folder, repo_id, page=space, dry_run=True, include=include) as contents:
            return pushed(contents, url_of(repo_id, REPO_TYPES[contents.kind]), None, revision=revision)
    check_access(token)
    api = HfApi(token=token, library_name="hf_soups")
    with hub_errors_explained(repo_id):
        whole = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        title = message or f"Push a {CALLED[kind]} with hf_soups"
        with gathered(folder, whole, page=space, include=include) as contents:
            request = PushRequest(
                whole, contents, private, revision, create_pr, title, force, confirm, tell or _log.info
            )
            request.tell(f"{len(contents.files)} files for {url_of(whole, contents.repo_type)}:")
            for line in listing(contents.files, contents.left_out):
                request.tell(line)
            return _patiently(api, request)


def push_saved(save: Callable[[Path], object], repo_id: str, **options: Any) -> Pushed:
    """Push what a function saves into a folder that does not exist yet; `options` are those of `push`.

    The folder is made among temporary files (TMPDIR), which must have room for it. Name and token are looked at first.

    Raises:
        InputError, CheckpointError, HfSoupsError: as `push`.
    """
    check_name(repo_id)
    if not options.get("dry_run"):
        check_access(options.get("token"))
    with temporary_folder("saved") as place:
        folder = Path(place, repo_id.rsplit("/", 1)[-1])
        save(folder)
        return push(folder, repo_id, **options)


def _patiently(api: HfApi, request: PushRequest) -> Pushed:
    tried = False  # whether a commit was sent: it may have arrived although its answer did not
    waits = iter(WAITS)
    failures: tuple[type[Exception], ...] = (Unanswered, *transport_errors())
    while True:
        try:
            return _push_once(api, request, tried)
        except failures as error:
            sent = isinstance(error, Unanswered)
            cause = error.cause if isinstance(error, Unanswered) else error
            # a pull request whose answer was lost may have been opened: a second one would be no repair
            twice = sent and request.create_pr and status_of(cause) is None
            wait = None if twice or not is_passing(cause) else next(waits, None)
            if wait is None:
                raise cause from None
            _log.warning("%s: %s; trying again in %g s", request.repo_id, one_line(cause), wait)
            tried = tried or sent
        time.sleep(wait)


def _push_once(api: HfApi, request: PushRequest, tried: bool) -> Pushed:
    contents, kind = request.contents, request.contents.repo_type
    remote = look(api, request.repo_id, request.revision, kind)
    refuse(remote, request)
    url, same = url_of(request.repo_id, kind), not remote.changed(contents.files)
    if remote.head and remote.has_revision and same and not (request.force and remote.others(contents.files)):
        return pushed(contents, url, remote.head, revision=request.revision, unchanged=not tried)
    if contents.check is not None:
        request.tell("running the card's code against the folder, as a user would")
        contents.check()
    if remote.head is None:
        sdk = "gradio" if kind == "space" else None
        api.create_repo(request.repo_id, repo_type=kind, private=request.private, space_sdk=sdk, exist_ok=True)
        remote = look(api, request.repo_id, request.revision, kind)
        refuse(remote, request)
    if remote.head is None:
        raise InputError(
            f"{request.repo_id}: the Hub has this repo, but does not show it to this token. Use a token with the right "
            "to read and write it, or another name."
        )
    if request.revision and not remote.has_revision:
        api.create_branch(
            request.repo_id, repo_type=kind, branch=request.revision, revision=remote.head, exist_ok=True
        )  # fmt: skip
    request.tell(f"sending {len(remote.changed(contents.files))} files to {url}")
    made = commit(api, remote, request)
    check_arrived(api, request, made.oid)
    return pushed(contents, made.pr_url or url, made.oid, revision=request.revision)
