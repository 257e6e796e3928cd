"""One repo of the Hub as a local folder: from the cache, or downloaded; only what a checkpoint consists of."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hf_soups.errors import HubFailed
from hf_soups.weights.cached import refuse_spoilt, spoilt
from hf_soups.weights.refusals import check_token, in_short, may_pass, pull_refused, root_of, transport_errors

WANTED = (
    "model.safetensors", "model-*.safetensors", "adapter_model.safetensors", "*.json", "*.txt", "*.model", "*.spm",
    "*.codes", "*.tokenizer", "*.jinja",
)  # fmt: skip
WAITS = (1.0, 4.0)  # seconds before another try; the client itself retries within each
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}(?:/{_PART})?")
_log = logging.getLogger(__name__)


def is_repo_id(text: str) -> bool:
    """Whether `text` can be a repo's id, "name" or "owner/name".

    >>> is_repo_id("org/model-b"), is_repo_id("runs/mrpc/run_00")
    (True, False)
    """
    return bool(_REPO.fullmatch(text)) and "--" not in text and ".." not in text


def download(repo: str, revision: str | None, subfolder: str | None, **hub: Any) -> Path:
    """The snapshot's folder on this machine; `hub` is passed on (token, cache_dir, local_files_only, ...).

    A try that meets a busy Hub or a broken connection is made again, up to twice; what arrived is kept. Every file's
    bytes are compared with the hash that the Hub announced, and got again where they differ.

    Raises:
        CheckpointError: if there is no such repo or revision, no access to it, no way to reach it, or if what arrived
            is not what the Hub has.
        InputError: if the token is none.
    """
    from huggingface_hub import constants

    check_token(hub.get("token"))
    where = f"{repo}{'' if revision is None else '@' + revision}"
    prefix = f"{subfolder}/" if subfolder else ""
    wanted = [prefix + pattern for pattern in WANTED]
    folder = _patiently(where, repo, revision, wanted, prefix, hub)
    bad = spoilt(_files(folder / prefix))
    if bad and not (constants.HF_HUB_OFFLINE or hub.get("local_files_only")):
        _log.warning("%s: %s; getting it again", where, "; ".join(map(str, bad)))
        again = [prefix + one.path.name for one in bad]
        with suppress(HubFailed):
            _patiently(where, repo, folder.name, again, prefix, {**hub, "force_download": True})
        bad = spoilt(one.path for one in bad)
    refuse_spoilt(where, bad)
    return folder


def _patiently(
    where: str, repo: str, revision: str | None, wanted: list[str], prefix: str, hub: Mapping[str, Any]
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    failures: tuple[type[Exception], ...] = (OSError, HFValidationError, *transport_errors())
    waits = iter(WAITS)
    while True:
        try:
            return Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    allow_patterns=wanted,
                    ignore_patterns=[prefix + "*/*"],  # other models in subfolders
                    **hub,
                )
            )
        except failures as error:
            wait = next(waits, None) if may_pass(error) else None
            if wait is None:
                local_only = bool(hub.get("local_files_only"))
                raise pull_refused(where, error, token=hub.get("token"), local_only=local_only) from error
            _log.warning("%s: %s; trying again in %g s", where, in_short(root_of(error)), wait)
        time.sleep(wait)


def _files(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in sorted(found) if path.is_file() and any(fnmatch(path.name, like) for like in WANTED)]
