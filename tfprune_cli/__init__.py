"""The command `tfprune`: `program` reads the command line, `commands` has a file for each command.

A package of its own beside `tfprune_init`, so that help, version, completion and wrong usage answer before TensorFlow
is imported, and so that the command can silence what TensorFlow writes while it is. A module of `commands` imports
what is slow inside its functions.
"""
