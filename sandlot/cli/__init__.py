"""The command line: `sandlot --help` says what it can do.

Knows: commands, options, how results and errors are shown. Does not know: how anything it asks for is done.
"""

from sandlot.cli.app import main

__all__ = ["main"]
