"""`tfprune compare`: the words of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from tfprune_cli.arguments import add_command, add_json, whole

_ABOUT = """Prune, train and evaluate one network with every method at every sparsity and
seed, as a file says. Each run has a folder of its own, named by a hash of all
that decides it: the same command after an interruption goes on where it
stopped, and a changed setting never uses an old run."""

_EXAMPLES = """examples:
  tfprune compare lenet.toml
  tfprune compare lenet.toml --out runs/lenet --processes 2
  tfprune report runs/lenet -o report.html

lenet.toml:
  model = "lenet_300_100"        # of tfprune_init.models, or module:function
  data = "digits"                # or tfds:NAME, or package.module:function
  methods = ["random", "snip", { method = "force", steps = 10 }]
  sparsities = [0.9, 0.98]
  seeds = 3                      # how many, or a list
  epochs = 10
  out = "runs/lenet"
and, if wanted:
  data_dir = "~/tensorflow_datasets"
  optimizer = { name = "Adam", learning_rate = 0.002 }
  loss = "sparse_categorical_crossentropy"
  from_logits = false            # without loss: this one, of logits
  dense = false                  # leave the unpruned network out
  processes = 2
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "compare", run, summary="compare methods, as a file says", about=_ABOUT, examples=_EXAMPLES
    )
    parser.add_argument("config", metavar="CONFIG.toml", help="what to compare")
    parser.add_argument("--out", metavar="DIR", help="folder of the runs, instead of the file's")
    parser.add_argument(
        "--processes", type=whole(1, 1024), metavar="N", help="runs at a time, each in a process of its own"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from tfprune_cli import compare

    given = {"out": options.out, "processes": options.processes}
    compare.run(options.config, {k: v for k, v in given.items() if v is not None}, options.json, Console())
