"""What the Hub's client raises, told apart: what passes by itself, what lacks a token, and what to say of a pull."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hf_soups.errors import CheckpointError, HubFailed, InputError

PASSING = (408, 429, 500, 502, 503, 504)  # statuses that another try may not meet


def check_token(token: Any = None) -> None:
    """Refuse a token that no HTTP header can carry; it is not shown, though the client's own message would.

    Args:
        token: as it is given to the client; None stands for HF_TOKEN or the stored one, False for none.
    Raises:
        InputError: saying where it comes from, what is wrong with it, and what to do.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:  # nothing is sent
        return
    where, text = ("the token", token) if isinstance(token, str) else ("", "") if token is False else _known_token()
    odd = next((char for char in text if not "!" <= char <= "~"), None)
    if odd is None:
        return
    kinds = {"\n": "a line break", "\r": "a line break", " ": "a blank"}
    kind = kinds.get(odd) or ("a control character" if odd.isascii() else "a character that is not ASCII")
    raise InputError(
        f"{where} cannot be sent: it holds {kind}. A token is one word, hf_ and letters and digits: copy it again from "
        "the Hub's settings, or log in with hf auth login."
    )


def _known_token() -> tuple[str, str]:
    """Where the token comes from that the client would take, and its text without white space around it."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if text := os.environ.get(name, "").strip():
            return name, text
    path = Path(constants.HF_TOKEN_PATH)
    try:
        return f"the token in {path}", path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "", ""


def transport_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises for a connection that fails or breaks off."""
    from huggingface_hub import errors

    client_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of httpx or httpx2
    return (client_error, ConnectionError, TimeoutError)


def is_passing(error: Exception) -> bool:
    """Whether the same request may well succeed a moment later."""
    status = status_of(error)
    return status is None or status in PASSING


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that the Hub answered with; None where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def one_line(said: object) -> str:
    """A message without its line breaks."""
    return " ".join(str(said).split())


def refuses_token(error: Any) -> bool:
    """The Hub says 401 without this code for a token that it does not know, whatever the client makes of it."""
    return status_of(error) == 401 and error.response.headers.get("X-Error-Code") != "RepoNotFound"


def root_of(error: Exception) -> Exception:
    """The Hub's answer, where the client looked into its cache after it and reports that nothing is there."""
    cause = error.__cause__
    answered = status_of(error) is None and status_of(cause) is not None
    return cause if answered and isinstance(cause, Exception) else error


def in_short(error: Exception) -> str:
    """What went wrong, on one line, without addresses and advice."""
    status = status_of(error)
    if status is None:
        return one_line(error)
    said = getattr(error, "server_message", None)
    return f"the Hub answered {status}" + (f": {one_line(said)}" if said else "")


def may_pass(error: Exception) -> bool:
    """Whether a download that failed so is worth another try at once: not where there is no network at all."""
    from huggingface_hub.errors import HfHubHTTPError

    error = root_of(error)
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in PASSING
    # a file shorter than announced: the client reports it by this sentence alone
    return isinstance(error, transport_errors()) or str(error).startswith("Consistency check failed")


def pull_refused(where: str, error: Exception, *, token: Any = None, local_only: bool = False) -> CheckpointError:
    """A failed download in words that say what to do.

    Args:
        where: repo and revision.
        error: what the Hub's client raised.
        token: as it was given to the client; None stands for the stored one.
        local_only: whether only the cache was looked at because the caller wanted so.
    """
    from huggingface_hub import errors

    error = root_of(error)
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(f"{where}: this repo is gated. Ask for access on its page and log in (hf auth login).")
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{where}: the repo has no such revision. Name a branch, tag or commit of it.")
    if refuses_token(error):
        return CheckpointError(
            f"{where}: the Hub does not accept this token (401: {_said(error)}). Log in again (hf auth login), or set "
            "HF_TOKEN to one that is valid."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(f"{where}: no such folder here and no such repo on the Hub, or {_unseen(error, token)}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_cached(where, error, local_only)
    if isinstance(error, errors.HFValidationError) and str(where).startswith((".", "/", "~")):
        return CheckpointError(f"{where}: no such folder. Check the path.")
    if isinstance(error, errors.HFValidationError):
        return CheckpointError(f"{where}: no such folder here, and no valid repo id ({error}).")
    return _failed(where, error)


def _unseen(error: Exception, token: Any) -> str:
    from huggingface_hub import get_token

    status = status_of(error)
    code = "" if status is None else f"{status}, "
    if token or (token is None and get_token()):
        return (
            f"it is private ({code}not for this token): check the name, or use a token that may read it (hf auth "
            "login, or HF_TOKEN)."
        )
    return f"it is private ({code}no token was sent): check the name, or log in (hf auth login, or set HF_TOKEN)."


def _not_cached(where: str, error: Exception, local_only: bool) -> CheckpointError:
    from huggingface_hub import constants

    # a class of the newer clients
    part = type(error).__name__ == "IncompleteSnapshotError"
    there = "only a part of it in the Hub's cache" if part else "not in the Hub's cache"
    if constants.HF_HUB_OFFLINE:
        why = "offline mode is on (HF_HUB_OFFLINE)"
    else:
        why = "only local files were asked for" if local_only else "the Hub cannot be reached"
    return CheckpointError(
        f"{where}: no such folder here, {there}, and {why}. Check the name and the connection, or give a local folder."
    )


def _failed(where: str, error: Exception) -> CheckpointError:
    from huggingface_hub import constants

    status = status_of(error)
    if status == 403:
        return CheckpointError(
            f"{where}: this token may not read it (403: {_said(error)}). Use one with the right to read this repo (hf "
            "auth login, or HF_TOKEN)."
        )
    if status in PASSING:
        return HubFailed(f"{where}: {in_short(error)}. Try again later: what was downloaded is kept.")
    if status is None and isinstance(error, transport_errors()):
        return HubFailed(
            f"{where}: {constants.ENDPOINT} broke off ({in_short(error)}). Try again: what was downloaded is kept."
        )
    return HubFailed(f"{where}: the Hub cannot be read ({in_short(error)}). Try again, or give a local folder.")


def _said(error: Any) -> str:
    return one_line(getattr(error, "server_message", None) or type(error).__name__)
