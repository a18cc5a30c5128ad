"""`tfprune train`: the words of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from tfprune_cli.arguments import add_command, add_data, add_json, add_loss, add_seed, whole

_ABOUT = """Train the model of a run with its pruned weights held at exactly zero, validate
on the test split after each epoch, and count the zeros in the end. Then
  model.keras      is the trained model, a plain Keras model with its zeros
  untrained.keras  is the pruned model as it was
  history.json     has what each epoch measured, and how each training was set
A second training goes on where the first ended. Interrupted or failed, a
training leaves the run as it was."""

_EXAMPLES = """examples:
  tfprune train run
      10 epochs on the data it was pruned on, with the model's own optimizer
  tfprune train run --epochs 20 --optimizer sgd --learning-rate 0.1
  tfprune train run --data tfds:mnist --loss sparse_categorical_crossentropy \\
      --from-logits
      a run that was pruned without data and without a loss
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "train", run, summary="train a run, pruned weights at zero", about=_ABOUT, examples=_EXAMPLES
    )
    parser.add_argument("source", metavar="RUN", help="a folder that `tfprune prune` wrote")
    add_data(parser, "what to train and validate on (default: what the run was pruned on)")
    parser.add_argument(
        "--epochs", type=whole(1, 1_000_000), default=10, metavar="N", help="passes over the data (default: 10)"
    )
    parser.add_argument("--batch-size", type=whole(1, 1_000_000), metavar="N", help="examples a batch (default: 128)")
    parser.add_argument(
        "--optimizer",
        metavar="NAME",
        help="Keras's name of the optimizer, such as adam or sgd, started anew (default: the model's own, which "
        "goes on, else adam)",
    )
    parser.add_argument(
        "--learning-rate", type=_rate, metavar="RATE", help="its learning rate (default: the optimizer's own)"
    )
    add_loss(parser)
    add_seed(parser, "of the order of the examples and of dropout")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from tfprune_cli import train

    train.run(
        train.Training(
            source=options.source,
            data=options.data,
            data_dir=options.data_dir,
            epochs=options.epochs,
            batch_size=options.batch_size,
            optimizer=options.optimizer,
            learning_rate=options.learning_rate,
            loss=options.loss,
            from_logits=options.from_logits,
            seed=options.seed,
            as_json=options.json,
            command_line=options.command_line,
        ),
        Console(),
    )


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0. Received: {text!r}")
    return rate
