"""One repo of the Hub as a local folder: from the cache, or downloaded; only what a checkpoint consists of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hf_soups.errors import CheckpointError

WANTED = (
    "model.safetensors", "model-*.safetensors", "adapter_model.safetensors", "*.json", "*.txt", "*.model", "*.codes",
    "*.jinja",
)  # fmt: skip
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}(?:/{_PART})?")


def is_repo_id(text: str) -> bool:
    """Whether `text` can be a repo's id, "name" or "owner/name".

    >>> is_repo_id("org/model-b"), is_repo_id("runs/mrpc/run_00")
    (True, False)
    """
    return bool(_REPO.fullmatch(text)) and "--" not in text and ".." not in text


def download(repo: str, revision: str | None, subfolder: str | None, **hub: Any) -> Path:
    """The snapshot's folder on this machine; `hub` is passed on (token, cache_dir, local_files_only, ...).

    Raises:
        CheckpointError: if there is no such repo or revision, no access to it, or no way to reach it.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repo}{'' if revision is None else '@' + revision}"
    prefix = f"{subfolder}/" if subfolder else ""
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[prefix + pattern for pattern in WANTED],
            ignore_patterns=[prefix + "*/*"],  # other models in subfolders
            **hub,
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{where}: this repo is gated. Ask for access on its page and log in (hf auth login)."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{where}: the repo has no such revision. Name a branch, tag or commit of it.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{where}: no such folder here and no such repo on the Hub, or it is private: check the name, or log in "
            "(hf auth login)."
        ) from error
    except LocalEntryNotFoundError as error:
        why = "offline mode is on (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        raise CheckpointError(
            f"{where}: no such folder here, not in the Hub's cache, and {why}. Check the name and the connection, or "
            "give a local folder."
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"{where}: no such folder here, and no valid repo id ({error}).") from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{where}: the Hub cannot be read ({error}). Try again, or give a local folder."
        ) from error
    return Path(folder)
