"""Reads the command line and hands over to one function per command.

TensorFlow takes seconds to import, so nothing above the commands does.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version

from rich.console import Console

from tfprune_cli.arguments import described
from tfprune_cli.commands import compare, demo, export, inspect, methods, prune, report, show, train
from tfprune_cli.quiet import import_tensorflow

FAILED = 1
INTERRUPTED = 130

LONGEST_MESSAGE = 1_000
"""Characters; messages that quote data have no end of their own."""

_GRAPH_ERROR = "Graph execution error:"
_STACK = ("File ", "Detected at node", "[[{{")

COMMANDS = (demo, methods, prune, train, show, report, export, inspect, compare)
"""In the order of the help."""

_ABOUT = """Prune Keras models before they are trained, and export them to verified TFLite
files."""

_EPILOG = """examples:
  tfprune demo                           train dense and pruned, and export both
  tfprune methods                        list the pruning methods
  tfprune prune m.keras --data digits --sparsity 0.95 -o run
                                         prune a saved model into the folder run
  tfprune train run --epochs 20          train it, pruned weights at zero
  tfprune show run                       what is left, and how accurate it is
  tfprune export run -o m.tflite         a verified TFLite file of it
  tfprune inspect m.tflite               what is inside a TFLite file
  tfprune compare lenet.toml             methods x sparsities x seeds
  tfprune report run -o report.html      a page about a run or a comparison
  tfprune prune -h                       all options of a command

exit codes:
  0    done
  1    failed; the reason is on the standard error
  2    wrong usage
  130  interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `tfprune`.

    Args:
        arguments: The words after `tfprune`; by default those of this process.

    Returns:
        The exit code: 0, or 1 if something failed, or 130 if interrupted. Wrong usage exits with 2.

    Example:
        >>> main(["methods"])  # doctest: +SKIP
        0
    """
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(words, argparse.Namespace(command_line=shlex.join(["tfprune", *words])))
    import_tensorflow()
    from tfprune_init.errors import PruningError

    try:
        options.command(options)
    except (PruningError, OSError) as error:
        errors = Console(stderr=True)
        # Brackets in a message are text; lines are broken where a person reads, not where a program does.
        errors.print(
            f"tfprune: {_in_one_paragraph(error)}", markup=False, highlight=False, soft_wrap=not errors.is_terminal
        )
        return FAILED
    except KeyboardInterrupt:
        Console(stderr=True).print("tfprune: interrupted")
        return INTERRUPTED
    return 0


def _in_one_paragraph(error: Exception) -> str:
    """The message without the stack of lines that TensorFlow adds to what failed in a graph."""
    lines = [line.strip() for line in str(error).replace(_GRAPH_ERROR, "").splitlines()]
    told = [line for line in lines if line and not line.startswith(_STACK)]
    message = " ".join(told)
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]} ..."


def _parser() -> argparse.ArgumentParser:
    parser = described(argparse.ArgumentParser(prog="tfprune", allow_abbrev=False), _ABOUT, _EPILOG)
    parser.add_argument("--version", action="version", version=f"tfprune {version('tfprune_init')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
