"""`tfprune demo`: the words of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from tfprune_cli.arguments import add_command, add_seed, whole

_ABOUT = """Train a dense and a pruned network side by side, from the same initial weights
and on the same batches in the same order; the pruned one loses most of its
weights before training. Then export both to TFLite and check each file against
its Keras model. Exits with 1 if anything does not hold."""

_EXAMPLES = """examples:
  tfprune demo
      scikit-learn's digits, which need no download
  tfprune demo --sparsity 0.98 --method snip
      fewer weights, another method
  tfprune demo --dataset mnist --data-dir ~/tensorflow_datasets --output mnist
      a data set of TensorFlow Datasets; the TFLite files stay in mnist
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "demo",
        run,
        summary="train dense and pruned side by side, and export both",
        about=_ABOUT,
        examples=_EXAMPLES,
    )
    parser.add_argument(
        "--dataset", default="digits", metavar="NAME", help="digits, or an image data set of TFDS (default: digits)"
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="folder of prepared TFDS data (default: $TFDS_DATA_DIR, else TFDS's own)"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="lenet_300_100, lenet_5, resnet20, resnet50 or vgg19 (default: lenet_5 for small gray images, "
        "else resnet20)",
    )
    parser.add_argument(
        "--method", default="force", metavar="NAME", help="one of those `tfprune methods` lists (default: force)"
    )
    parser.add_argument(
        "--sparsity",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="share of the weights to remove, in [0, 1) (default: 0.95)",
    )
    parser.add_argument(
        "--epochs",
        type=whole(1, 100_000),
        metavar="N",
        help="passes over the data (default: 40 for digits, 3 for other small gray images, else 1)",
    )
    add_seed(parser, "of weights, order and method")
    parser.add_argument(
        "--output", metavar="DIR", help="keep the TFLite files and the report here (default: keep none)"
    )


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from tfprune_cli import demo

    demo.run(
        demo.Demo(
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
