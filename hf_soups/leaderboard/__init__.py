"""Leaderboard: every run, soup, ensemble and cascade of a sweep in one table, compared, from files alone."""

from hf_soups.leaderboard.board import Leaderboard, build_leaderboard, leaderboard_of, name_with_count

__all__ = ["Leaderboard", "build_leaderboard", "leaderboard_of", "name_with_count"]
