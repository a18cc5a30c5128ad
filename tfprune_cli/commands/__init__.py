"""The commands, one file each: `add_parser` reads its words, `run` hands them to what does the work.

None imports TensorFlow before it runs.
"""
