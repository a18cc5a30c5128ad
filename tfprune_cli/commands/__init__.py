"""The commands of `tfprune`, one file each, found by their names.

`commands/NAME.py` defines `run`, made by `tfprune_cli.declaration.command`: the options and the work. To add a command,
add its file and its test. At import, only click, the standard library, `tfprune_cli.declaration` and
`tfprune_cli.options` may be used.
"""
