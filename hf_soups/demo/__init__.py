"""The demo: a page to try a cascade (or one classifier) on images and texts, on this machine or as a Space.

`cascade` loads it and reads inputs, `journeys` says which members an input met, `views` shows that as HTML, `page` puts
the page together with gradio, `serving` opens it, `space` makes the files of a Space.
"""

from hf_soups.demo.serving import build_page, serve
from hf_soups.demo.space import space_files

__all__ = ["build_page", "serve", "space_files"]
