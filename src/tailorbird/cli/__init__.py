"""The verbs. Thin: each command parses, calls, prints. Errors of a user's get a message, not a traceback.

Nothing but typer is imported at the top of these files: `--help` must be there at once.
"""

from tailorbird.cli import making, using  # isort: skip
from tailorbird.cli import tables  # isort: skip
from tailorbird.cli import machine  # isort: skip
from tailorbird.cli.app import app, main

__all__ = ["app", "machine", "main", "making", "tables", "using"]
