"""Pictures as PNG files, drawn from points; the same points feed the charts of the page."""
