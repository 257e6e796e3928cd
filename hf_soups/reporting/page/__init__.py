"""The report: one HTML file about a sweep, its soups, pools and cascades that opens offline.

`sources` reads the folders into one value; `board`, `cascades` and `training` make sections of it, from the
parts in `html`, with the pictures of `charts`; `page` puts them together and writes the file.
"""

from hf_soups.reporting.page.page import page_for, report

__all__ = ["page_for", "report"]
