"""The command `tfprune`.

A package of its own beside `tfprune_init`, so that help, version and wrong usage answer before TensorFlow
is imported, and so that the command can silence what TensorFlow writes while it is.
"""
