"""`tfprune export`: the words of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from tfprune_cli.arguments import add_command, add_data, add_json

_ABOUT = """Convert a saved Keras model to TFLite, run the file in a subprocess with every
interpreter installed, compare it with the model, and write it only if they
agree. Zeros are left out of the file where that makes it smaller, not slower,
and still right. The report has bytes, times and memory beside those of the
dense model."""

_EXAMPLES = """examples:
  tfprune export model.keras -o model.tflite
      float32; verified on synthetic inputs
  tfprune export runs/force_95 -o model.tflite --data digits --int8
      the model of a run, in integers calibrated on digits
  tfprune export model.keras -o m.tflite --quantize float16 --sparse no --json
      every zero stored; the report as JSON
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "export",
        run,
        summary="convert a saved model to a verified TFLite file",
        about=_ABOUT,
        examples=_EXAMPLES,
    )
    parser.add_argument("source", metavar="RUN_OR_MODEL", help="a .keras file, or a folder that holds model.keras")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the TFLite file to write")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--quantize",
        choices=("float16", "dynamic", "int8"),
        help="how to store the weights (default: float32); int8 needs --data",
    )
    precision.add_argument(
        "--int8", action="store_const", const="int8", dest="quantize", help="the same as --quantize int8"
    )
    parser.add_argument(
        "--sparse",
        choices=("auto", "yes", "no"),
        default="auto",
        help="leave zeros out of the file; auto does where that pays (default: auto)",
    )
    add_data(parser, "what to verify and calibrate on (default: synthetic inputs)")
    parser.add_argument(
        "--target", choices=("cpu", "arm"), default="cpu", help="arm: say which convolutions run sparse there"
    )
    parser.add_argument("--no-measure", action="store_true", help="don't load and time the files, which takes seconds")
    parser.add_argument("--plot", metavar="FILE", help="write a picture of the report, such as edge.png")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from tfprune_cli import export

    export.run(
        export.Export(
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
