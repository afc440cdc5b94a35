"""The command line, `sandlot`."""

from sandlot.cli.app import main

__all__ = ["main"]
