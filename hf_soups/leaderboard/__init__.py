"""Leaderboard: every run, soup, ensemble and cascade of a sweep in one table, compared, from files alone."""

from hf_soups.leaderboard.board import Leaderboard, build_leaderboard, leaderboard_of, name_with_count
from hf_soups.leaderboard.without_sweep import answer_checkpoints

__all__ = ["Leaderboard", "answer_checkpoints", "build_leaderboard", "leaderboard_of", "name_with_count"]
