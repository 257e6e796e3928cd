"""Pushing to the Hub: soups and cascades as models, leaderboards and pools of predictions as data sets, Spaces.

`contents` says what a folder is and which of its files are sent, `models` and `data_sets` what belongs to each kind and
which card goes with it, `local_paths` takes paths of this machine out of records; `repo` compares with what the Hub
holds and makes one commit, `pushing` is the whole of it.
"""

from hf_soups.hub.contents import LeftOut, LocalFile
from hf_soups.hub.pushing import Pushed, push, push_saved

__all__ = ["LeftOut", "LocalFile", "Pushed", "push", "push_saved"]
