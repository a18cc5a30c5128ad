"""`tfprune compare`: a comparison defined in a TOML file."""

from __future__ import annotations

import click

from tfprune_cli.declaration import command, write_json_output
from tfprune_cli.options import WholeNumber, json_option

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
  on_collapse = "warn"           # train what pruning cut in two as well
  processes = 2
"""


@command("compare", summary="run a comparison defined in a TOML file", about=_ABOUT, examples=_EXAMPLES)
@click.argument("config", metavar="CONFIG.toml", type=click.Path(), help="what to compare")
@click.option("--out", metavar="DIR", type=click.Path(), help="folder of the runs, instead of the file's")
@click.option(
    "--processes", type=WholeNumber(1, 1024), metavar="N", help="runs at a time, each in a process of its own"
)
@json_option
def execute(config: str, out: str | None, processes: int | None, as_json: bool) -> None:
    """Compare, and print the summary."""
    from dataclasses import asdict

    from rich.console import Console

    from tfprune_cli.comparison_file import (
        PASSED_ON,
        NamedData,
        find_loss_named,
        find_model,
        make_optimizer,
        read_config,
    )
    from tfprune_cli.data import check_data_options
    from tfprune_init.experiments import compare

    given = {"out": out, "processes": processes}
    settings = {**read_config(config), **{key: value for key, value in given.items() if value is not None}}
    data = NamedData(settings["data"], settings.get("data_dir"))
    check_data_options(data.name, data.data_dir)
    results = compare(
        find_model(settings["model"], data),
        data,
        optimizer=make_optimizer(settings.get("optimizer")),
        loss=find_loss_named(settings.get("loss"), settings.get("from_logits")),
        verbose=0 if as_json else 1,
        **{key: settings[key] for key in PASSED_ON if key in settings},
    )
    if as_json:
        write_json_output({"out": str(results.out), "summary": [asdict(row) for row in results.summary()]})
        return
    console = Console()
    results.print(console.file)
    console.print(f"Runs, results.csv and results.jsonl are in {results.out}", highlight=False, soft_wrap=True)
