"""`tfprune report`: a page about a run or a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tfprune_cli.declaration import command

if TYPE_CHECKING:
    from tfprune_cli.run_folder import RunFolder
    from tfprune_init.reports import HtmlReport

_ABOUT = """Write a page for the browser: one HTML file with tables that sort and figures,
which needs no network. Of a run of `tfprune prune` it shows layers, connections
and what training reached; of a comparison accuracies, layers and every run."""

_EXAMPLES = """examples:
  tfprune report run -o report.html
  tfprune report runs/lenet -o report.html
      the folder of a comparison
"""


@command("report", summary="write a page about a run or a comparison", about=_ABOUT, examples=_EXAMPLES)
@click.argument("source", metavar="RUN", type=click.Path(), help="a folder of `tfprune prune`, or of `tfprune compare`")
@click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(), help="the HTML file to write")
def execute(source: str, output: str) -> None:
    """Write the page."""
    from pathlib import Path

    from rich.console import Console

    from tfprune_cli.run_folder import is_run, open_run
    from tfprune_init.errors import OptionError
    from tfprune_init.experiments import Results
    from tfprune_init.experiments.storage import RESULTS, RUN_FILE
    from tfprune_init.reports import comparison_page

    folder = Path(source).expanduser()
    if (folder / RESULTS).is_file():
        page = comparison_page(Results.load(folder))
    elif is_run(folder):
        page = _build_page(open_run(folder))
    else:
        raise OptionError(
            "A page is made of a folder that `tfprune prune` or `tfprune compare` wrote, with a "
            f"{RUN_FILE} or a {RESULTS} in it. Received: {source!r}"
        )
    page.save(Path(output).expanduser())
    Console().print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)


def _build_page(run: RunFolder) -> HtmlReport:
    from tfprune_cli.saved_models import load_model
    from tfprune_init.reports import pruning_page

    data = run.about.get("data")
    return pruning_page(
        run.report,
        run.masks,
        model=load_model(run.folder, purpose="report"),
        initial=run.initial,
        epochs=run.history["epochs"],
        data=data and data["description"],
    )
