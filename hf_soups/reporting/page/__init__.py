"""The report: one HTML file about a sweep, its soups, pools and cascades that opens offline.

`sources` reads the folders into one value, `verdict` says what to ship of it; `board`, `classes`, `cascades`,
`settings`, `training` and `kept` make sections, from the parts in `html`, with the pictures of `charts` and the `terms`
that are explained; `page` puts them together and writes the file.
"""

from hf_soups.reporting.page.page import page_for, report

__all__ = ["page_for", "report"]
