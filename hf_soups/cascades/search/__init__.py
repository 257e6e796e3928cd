"""Searching cascades: exhaustively on grids that are polished, by a beam, and by Streeter's greedy."""
