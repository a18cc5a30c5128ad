"""`tfprune prune`: the words of the command line."""

from __future__ import annotations

import argparse
import ast
from typing import Any

from rich.console import Console

from tfprune_cli.arguments import add_command, add_data, add_json, add_loss, add_seed, whole

_ABOUT = """Prune a saved Keras model before it is trained, and write a run: a folder with
  model.keras   the pruned model, untrained; it keeps its masks where the
                file can carry them
  masks.npz     the masks, for tfprune_init.Masks.load
  initial.npz   the weights that the masked variables had, by path
  report.json   what is left of each layer, and how it was found
  run.json      the command, the data and the versions
The folder appears when all of it is written."""

_EXAMPLES = """examples:
  tfprune prune model.keras --data digits --sparsity 0.95 -o run
      FORCE, judged by the loss that the model is compiled with
  tfprune prune model.keras --data tfds:mnist --method snip --sparsity 0.9 \\
      --loss sparse_categorical_crossentropy --from-logits -o run
      a model saved without a loss, whose outputs are logits
  tfprune prune model.keras --method synflow --sparsity 0.98 -o run
      a method that looks at no data
  tfprune prune model.keras --data mine:load --method grasp --sparsity 0.9 \\
      --set temperature=100 --filters head -o run
      data from load() in mine.py, an option of the method, layer head as it is
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "prune", run, summary="prune a saved model into a run folder", about=_ABOUT, examples=_EXAMPLES
    )
    parser.add_argument("source", metavar="MODEL", help="a .keras file, of Keras 3 or tf_keras")
    parser.add_argument("-o", "--output", required=True, metavar="RUN", help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is there, if any")
    parser.add_argument(
        "--sparsity", type=float, required=True, metavar="SHARE", help="share of the weights to remove, in [0, 1)"
    )
    parser.add_argument(
        "--method", default="force", metavar="NAME", help="one of those `tfprune methods` lists (default: force)"
    )
    add_data(parser, "what connections are judged by; methods that look at no data only check on it that signals pass")
    add_loss(parser)
    parser.add_argument("--steps", type=whole(1, 1_000_000), metavar="N", help="steps, for iterative methods")
    parser.add_argument("--schedule", metavar="NAME", help="exponential, linear, halving or one_shot")
    parser.add_argument("--scope", metavar="NAME", help="how scores compete: global, layerwise, erk, ...")
    parser.add_argument("--batches", type=whole(1, 1_000_000), metavar="N", help="batches of 128 each step looks at")
    parser.add_argument("--batchnorm", choices=("batch", "inference"), help="score as in training or as in prediction")
    parser.add_argument("--normalize", choices=("l2", "sum"), help="divide each variable's scores by this first")
    parser.add_argument(
        "--shuffle", action="store_true", help="keep each layer's density and move what is kept to random places"
    )
    parser.add_argument("--prune-bias", action="store_true", help="prune biases too")
    parser.add_argument(
        "--filters",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="what to leave alone: layers, variables, glob patterns",
    )
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="an option of the method or the scope, such as block_size=(1,4); may be repeated",
    )
    add_seed(parser, "of the method and of the order of the data")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from tfprune_cli import prune

    named = ("steps", "schedule", "scope", "batches", "batchnorm", "normalize", "shuffle")
    prune.run(
        prune.Pruning(
            source=options.source,
            output=options.output,
            overwrite=options.overwrite,
            sparsity=options.sparsity,
            method=options.method,
            data=options.data,
            data_dir=options.data_dir,
            loss=options.loss,
            from_logits=options.from_logits,
            named={name: getattr(options, name) for name in named},
            settings=dict(options.settings),
            filters=tuple(options.filters),
            prune_bias=options.prune_bias,
            seed=options.seed,
            as_json=options.json,
            command_line=options.command_line,
        ),
        Console(),
    )


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, such as m=4. Received: {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
