"""The demo: a page on which a cascade (or one classifier) is tried on images and texts, here or as a Space.

`subject` loads it, `journeys` says what happened to an input, `words` and `views` tell it, `page` puts it together with
gradio, `serving` opens it, `space` makes a Space of it.
"""

from hf_soups.demo.serving import build_page, serve, space_files

__all__ = ["build_page", "serve", "space_files"]
