"""How results look in a notebook and at a prompt: one short line, a table, and a picture where there is one."""

from __future__ import annotations

import base64
from abc import abstractmethod
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20  # rows of a table in a notebook
PNG = "image/png"


class Displayed:
    """What has a short `repr`, `to_pandas`, and a table with a picture in a notebook."""

    __slots__ = ()

    @abstractmethod
    def in_short(self) -> str:
        """What it is, in one line."""

    @abstractmethod
    def to_pandas(self) -> pd.DataFrame:
        """All of it as a table."""

    def _picture(self) -> bytes | None:
        """A PNG file; None: there is nothing to draw."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_short()})"

    def _repr_html_(self) -> str:
        """The line, the picture and the first rows, as notebooks show them."""
        table, drawn = self.to_pandas(), self._picture()
        image = "" if drawn is None else f'<img src="data:{PNG};base64,{base64.b64encode(drawn).decode()}" width="640">'
        more = f"<p>{len(table) - SHOWN:,} more rows: to_pandas()</p>" if len(table) > SHOWN else ""
        return f"<p>{escape(repr(self))}</p>{image}{table.head(SHOWN).to_html(border=0)}{more}"
