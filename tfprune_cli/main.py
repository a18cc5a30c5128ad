"""Reads the command line and hands over to one function per command.

TensorFlow takes seconds to import, so nothing above the commands does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from rich.console import Console

from tfprune_cli.quiet import import_tensorflow

FAILED = 1
INTERRUPTED = 130

_DESCRIPTION = "Prune Keras models before they are trained, and export them to verified TFLite files."

_EXAMPLES = """examples:
  tfprune demo                           train a dense and a pruned network side by side, and export both
  tfprune methods                        list the pruning methods
  tfprune export m.keras -o m.tflite     a verified TFLite file of a saved model
  tfprune inspect m.tflite               what is inside a TFLite file
  tfprune demo -h                        all options of the demo
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

_EXPORT = """Convert a saved Keras model to TFLite, run the file in a subprocess with every
interpreter installed, compare it with the model, and write it only if they agree.
Zeros are left out of the file where that makes it smaller, not slower, and still
right. The report has bytes, times and memory beside those of the dense model."""

_EXPORT_EXAMPLES = """examples:
  tfprune export model.keras -o model.tflite
      float32; verified on synthetic inputs
  tfprune export runs/force_95 -o model.tflite --data digits --int8
      the model.keras in a folder, in integers calibrated on digits
  tfprune export model.keras -o model.tflite --quantize float16 --sparse no --json
      every zero stored; the report as JSON
"""

_INSPECT = """Read a TFLite file, ours or not, and say for each weight how many zeros it has,
how they are stored, and whether a sparse kernel, a dense one or none reads it."""

_INSPECT_EXAMPLES = """examples:
  tfprune inspect model.tflite
  tfprune inspect model.tflite --json
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
    _add_export(commands)

    inspect = commands.add_parser("inspect", help="say what is inside a TFLite file", allow_abbrev=False)
    _described(inspect, _INSPECT, _INSPECT_EXAMPLES).set_defaults(command=_inspect)
    inspect.add_argument("file", metavar="FILE", help="a .tflite file")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="convert a saved model to a verified TFLite file", allow_abbrev=False)
    _described(export, _EXPORT, _EXPORT_EXAMPLES).set_defaults(command=_export)
    export.add_argument("source", metavar="RUN_OR_MODEL", help="a .keras file, or a folder that holds model.keras")
    export.add_argument("-o", "--output", required=True, metavar="FILE", help="the TFLite file to write")
    precision = export.add_mutually_exclusive_group()
    precision.add_argument(
        "--quantize",
        choices=("float16", "dynamic", "int8"),
        help="how to store the weights (default: float32); int8 needs --data",
    )
    precision.add_argument(
        "--int8", action="store_const", const="int8", dest="quantize", help="the same as --quantize int8"
    )
    export.add_argument(
        "--sparse",
        choices=("auto", "yes", "no"),
        default="auto",
        help="leave zeros out of the file; auto does where that pays (default: auto)",
    )
    export.add_argument(
        "--data",
        metavar="NAME",
        help="digits or tfds:NAME: what to verify and calibrate on (default: synthetic inputs)",
    )
    export.add_argument("--data-dir", metavar="DIR", help="folder of prepared TFDS data")
    export.add_argument(
        "--target", choices=("cpu", "arm"), default="cpu", help="arm: say which convolutions run sparse there"
    )
    export.add_argument("--no-measure", action="store_true", help="don't load and time the files, which takes seconds")
    export.add_argument("--plot", metavar="FILE", help="write a picture of the report, such as edge.png")
    export.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")


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


def _export(options: argparse.Namespace) -> None:
    from tfprune_cli.export import Export, run

    run(
        Export(
            source=options.source,
            output=options.output,
            quantize=options.quantize,
            sparse=options.sparse,
            data=options.data,
            data_dir=options.data_dir,
            target=options.target,
            measure=not options.no_measure,
            as_json=options.json,
            plot=options.plot,
        ),
        Console(),
    )


def _inspect(options: argparse.Namespace) -> None:
    from tfprune_cli.inspect import run

    run(options.file, options.json, Console())
