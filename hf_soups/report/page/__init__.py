"""The report: one HTML file about a sweep, its soups, pools and cascades that opens offline.

`sources` finds what lies in the folders, `reading` reads it; one module a section says what stands there, in `parts`;
`charts` draws, `page` puts the sections together and writes the file.
"""

from hf_soups.report.page.page import page_for, write_report

__all__ = ["page_for", "write_report"]
