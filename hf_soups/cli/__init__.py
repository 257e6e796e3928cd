"""The command line: one subcommand a stage. It parses, calls and prints; everything else lives in the modules.

Nothing heavy is imported before a command runs, so `hf-soups --help` answers at once.
"""

from hf_soups.cli import boards, cascades, exporting, pools, serving, share, soups
from hf_soups.cli.app import Command, app, main

__all__ = ["app", "boards", "cascades", "exporting", "main", "pools", "serving", "share", "soups"]

# In help, the way that a user's data takes; ruff sorts the imports above by name.
ORDER = (
    "quickstart", "sweep", "cook", "leaderboard", "compare", "answer", "convert", "inspect", "diagnose", "by-number",
    "predict", "watch", "ensemble", "export", "report", "demo", "serve", "card", "push", "doctor", "version",
)  # fmt: skip
for _group in (app, *(group.typer_instance for group in app.registered_groups)):
    for _command in _group.registered_commands if _group is not None else ():
        _command.cls = Command
app.registered_commands.sort(key=lambda command: ORDER.index(command.name or getattr(command.callback, "__name__", "")))
