"""The command line's grammar, a file for each panel of the help.

Knows: nothing. Does not know: what the commands do.
"""
