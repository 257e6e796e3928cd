"""Serving: a cascade, a soup or one classifier answers requests over HTTP, many of them in one batch.

`served` loads what answers, `asked` reads a request, `batching` gathers rows, `answering` runs the model on them,
`counters` and `exit_watch` say how it goes, `app` puts them together, `server` opens it. On a cluster `on_ray` has the
replicas, and `by_member` the way of a row whose members answer apart.
"""

from hf_soups.serving.app import make_app
from hf_soups.serving.server import build_app, serve
from hf_soups.serving.settings import OnCluster, ServeSettings

__all__ = ["OnCluster", "ServeSettings", "build_app", "make_app", "serve"]
