"""Serving: a cascade, a soup or one classifier answers requests over HTTP, many of them in one batch.

`served` loads what answers, `asked` reads a request, `batching` gathers rows, `answering` runs the model on them,
`counters` and `exit_watch` say how it goes, `app` puts them together, `server` opens it.
"""

from hf_soups.serving.app import make_app
from hf_soups.serving.server import build_app, serve
from hf_soups.serving.settings import ServeSettings

__all__ = ["ServeSettings", "build_app", "make_app", "serve"]
