"""What `make docs` shows: pages and the files that they link to, under their paths in the repository.

mkdocs calls the functions below; mkdocs.yml is beside the README.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SHOWN = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs/*.md", "docs/*.png", "docs/site.py",
    "docs/decisions/*.md", "examples/container/*",
    "recipes/**/*.*", "examples/*.*", "model_cards/**/*.md", "model_cards/**/*.png", "benchmarks/*.md",
    "benchmarks/results/*.md", "hf_soups/soups/registry.py",
)  # fmt: skip
LISTED = {
    "examples": "Examples",
    "docs/decisions": "Decisions",
    "benchmarks/results": "What benchmarks printed",
    "recipes/studies": "Studies",
}  # folders without a page of their own


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the repository in place of those of docs/ alone."""
    of_theme = [file for file in files if file.generated_by or file.src_dir != config.docs_dir]
    paths = sorted({path.relative_to(ROOT) for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()})
    shown = [File(p.as_posix(), str(ROOT), config.site_dir, config.use_directory_urls) for p in paths]
    lists = [File.generated(config, f"{f}/README.md", content=listing(f, title)) for f, title in LISTED.items()]
    return Files([*of_theme, *shown, *lists])


def listing(folder: str, title: str) -> str:
    """A page that links to every file of a folder, and to the pages of the folders in it."""
    inside = [*(ROOT / folder).glob("*.*"), *(ROOT / folder).glob("*/README.md")]
    names = sorted(path.relative_to(ROOT / folder).as_posix() for path in inside)
    return "\n".join([f"# {title}\n", *(f"- [{name.removesuffix('/README.md')}]({name})" for name in names), ""])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to folders lead to their pages: a code host lists a folder, a site does not."""
    return re.sub(r"(\]\((?!\w+:)[^)#]*)/\)", r"\1/README.md)", markdown)
