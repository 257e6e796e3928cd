"""The command line: one subcommand a stage. It parses, calls and prints; everything else lives in the modules.

Nothing heavy is imported before a command runs, so `hf-soups --help` answers at once.
"""

from hf_soups.cli import cascades, hub, soups
from hf_soups.cli.app import app, main

__all__ = ["app", "cascades", "hub", "main", "soups"]
