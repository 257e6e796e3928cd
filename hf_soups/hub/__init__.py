"""Pushing to the Hub: soups and cascades as models, leaderboards and pools of predictions as data sets, Spaces.

`kinds` tells what a folder is; `models`, `boards`, `pools` and `spaces` say what belongs to it, `choosing` which of its
files are sent (`contents`), and `gathering` puts them together; `remote` looks at the repo, `commits` makes one commit,
`pushing` is the whole of it.
"""

from hf_soups.hub.contents import LeftOut, LocalFile
from hf_soups.hub.pushing import Pushed, push, push_saved

__all__ = ["LeftOut", "LocalFile", "Pushed", "push", "push_saved"]
