"""What a package page shows: the README, and where the project is.

A relative link or picture of the README leads nowhere there. With the repository's address in PROJECT_URL the build
writes it into them, and into the package's URLs; without it both stay as they are.

PROJECT_URL=ADDRESS python -m build
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = re.compile(r"(!?)(\[[^\]]*\])\((?!\w+:|#)([^)]+)\)")


def with_address(readme: str, address: str) -> str:
    """Links to files of the repository, and pictures as files themselves."""

    def whole(found: re.Match[str]) -> str:
        picture, text, path = found.groups()
        return f"{picture}{text}({address}/{'raw' if picture else 'blob'}/HEAD/{path})"

    return RELATIVE.sub(whole, readme)


class CustomMetadataHook(MetadataHookInterface):
    """Named in pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme` and, where an address is given, `urls`."""
        readme, address = Path(self.root, "README.md").read_text(encoding="utf-8"), os.environ.get("PROJECT_URL", "")
        if address:
            readme = with_address(readme, address.rstrip("/"))
            metadata["urls"] = {"Repository": address}
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
