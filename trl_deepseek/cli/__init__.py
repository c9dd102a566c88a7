"""The command line: one module per command, imported only when that command is called.

A command module has ``add_arguments(parser)`` and ``run(args) -> int``, the exit code.
"""
