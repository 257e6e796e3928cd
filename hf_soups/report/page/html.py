"""The page as HTML: one file that loads nothing, with a policy that forbids every script but its own."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import MissingExtra
from hf_soups.report.page.parts import Cell, Page

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
MARK = '<meta name="generator" content="hf_soups'  # by which an earlier report is known
PACKAGES = ("altair", "vl_convert")


def require_extra() -> None:
    """Check before any work that charts can be drawn.

    Raises:
        MissingExtra: if Altair or vl-convert is not installed.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"The report's charts need {' and '.join(missing)}, which is not installed. "
            'Run: pip install "hf_soups[report]".'
        )


def is_ours(path: Path) -> bool:
    """Whether a file is a report of ours."""
    try:
        with path.open(encoding="utf-8") as file:
            return MARK in file.read(2048)
    except (OSError, UnicodeDecodeError):
        return False


def to_html(page: Page) -> str:
    """The whole file. Names and texts come from anywhere, so all of them are escaped."""
    from hf_soups import __version__

    style, script = (_own(name) for name in ("page.css", "page.js"))
    charts = _vega() if page.charts else ""
    text: str = (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            version=__version__,
            policy=_policy([charts, script] if charts else [script], style),
            style=_raw(style),
            charts=_raw(charts),
            script=_raw(script),
        )
    )
    return text.strip() + "\n"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"data": _json_for_html, "sort_value": _sort_value}
    return made


def _json_for_html(spec: Mapping[str, Any]) -> Any:
    """JSON that no text in it can end or leave, whatever it holds."""
    text = json.dumps(spec, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return _raw(text)


def _raw(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 (our own files, the bundle of vl-convert, and JSON that is escaped above)


def _sort_value(cell: Cell) -> str:
    """What the page's script sorts by: a number or a word; nothing for what is not known."""
    if isinstance(cell.value, int | float):
        return repr(cell.value) if math.isfinite(cell.value) else ""
    return cell.value or ""


@cache
def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8").strip()


@cache
def _vega() -> str:
    """The code of Vega, Vega-Lite and Vega-Embed in one piece."""
    import vl_convert

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("\r", "\\r").strip()
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: list[str], style: str) -> str:
    """What the browser may run and load: these scripts and this style by their hashes, images inside the file."""
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
