"""Reads the command line and hands over to one function per command.

TensorFlow takes seconds to import, so nothing above the commands does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from rich.console import Console

from tfprune_cli.quiet import import_tensorflow

FAILED = 1
INTERRUPTED = 130

_DESCRIPTION = "Prune Keras models before they are trained, and export them to verified TFLite files."

_EXAMPLES = """examples:
  tfprune demo        train a dense and a pruned network side by side, and export both
  tfprune methods     list the pruning methods
  tfprune demo -h     all options of the demo
"""

_DEMO = """Train a dense and a pruned network side by side, from the same initial weights
and on the same batches in the same order; the pruned one loses most of its
weights before training. Then export both to TFLite and check each file against
its Keras model. Exits with 1 if anything does not hold."""

_DEMO_EXAMPLES = """examples:
  tfprune demo
      scikit-learn's digits, which need no download
  tfprune demo --sparsity 0.98 --method snip
      fewer weights, another method
  tfprune demo --dataset mnist --data-dir ~/tensorflow_datasets --output mnist_demo
      a data set of TensorFlow Datasets; the TFLite files stay in mnist_demo
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
    options = _parser().parse_args(arguments)
    import_tensorflow()
    from tfprune_init.errors import PruningError

    try:
        options.command(options)
    except (PruningError, OSError) as error:
        errors = Console(stderr=True)
        # Brackets in a message are text; lines are broken where a person reads, not where a program does.
        errors.print(f"tfprune: {error}", markup=False, highlight=False, soft_wrap=not errors.is_terminal)
        return FAILED
    except KeyboardInterrupt:
        Console(stderr=True).print("tfprune: interrupted")
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _described(argparse.ArgumentParser(prog="tfprune", allow_abbrev=False), _DESCRIPTION, _EXAMPLES)
    parser.add_argument("--version", action="version", version=f"tfprune {version('tfprune_init')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="train dense and pruned side by side, and export both", allow_abbrev=False)
    _described(demo, _DEMO, _DEMO_EXAMPLES).set_defaults(command=_demo)
    demo.add_argument(
        "--dataset", default="digits", metavar="NAME", help="digits, or an image data set of TFDS (default: digits)"
    )
    demo.add_argument(
        "--data-dir", metavar="DIR", help="folder of prepared TFDS data (default: $TFDS_DATA_DIR, else TFDS's own)"
    )
    demo.add_argument(
        "--model",
        metavar="NAME",
        help="lenet_300_100, lenet_5, resnet20, resnet50 or vgg19 (default: lenet_5 for small gray images, "
        "else resnet20)",
    )
    demo.add_argument(
        "--method", default="force", metavar="NAME", help="one of those `tfprune methods` lists (default: force)"
    )
    demo.add_argument(
        "--sparsity",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="share of the weights to remove, in [0, 1) (default: 0.95)",
    )
    demo.add_argument(
        "--epochs",
        type=_integer(1, 100_000),
        metavar="N",
        help="passes over the data (default: 40 for digits, 3 for other small gray images, else 1)",
    )
    demo.add_argument(
        "--seed", type=_integer(0, 2**32 - 1), default=0, metavar="N", help="of weights, order and method (default: 0)"
    )
    demo.add_argument("--output", metavar="DIR", help="keep the TFLite files and the report here (default: keep none)")

    methods = commands.add_parser("methods", help="list the pruning methods", allow_abbrev=False)
    _described(methods, "List the pruning methods, with their settings and papers.", "").set_defaults(command=_methods)
    methods.add_argument("--markdown", action="store_true", help="print the whole page of docs/methods.md")
    return parser


def _described(parser: argparse.ArgumentParser, description: str, examples: str) -> argparse.ArgumentParser:
    parser.description = description
    parser.epilog = examples
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}. Received: {text!r}")
        return int(text)

    return parse


def _demo(options: argparse.Namespace) -> None:
    from tfprune_cli.demo import Demo, run

    run(
        Demo(
            dataset=options.dataset,
            data_dir=options.data_dir,
            model=options.model,
            method=options.method,
            sparsity=options.sparsity,
            epochs=options.epochs,
            seed=options.seed,
            output=options.output,
        ),
        Console(),
    )


def _methods(options: argparse.Namespace) -> None:
    from tfprune_cli.method_table import print_methods
    from tfprune_cli.methods_page import methods_page

    if options.markdown:
        sys.stdout.write(methods_page())
    else:
        print_methods(Console())
