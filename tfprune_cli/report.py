"""The command `tfprune report`: a page about a run or a comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from tfprune_cli.runs import INITIAL_FILE, RUN_FILE, Run, open_run
from tfprune_cli.saved import load_model
from tfprune_init.errors import OptionError
from tfprune_init.experiments import Results
from tfprune_init.experiments.store import RESULTS
from tfprune_init.pages import Page, comparison_page, pruning_page


def run(source: str, output: str, console: Console) -> None:
    """Write the page.

    Args:
        source: The folder of a run or of a comparison.
        output: The file to write.
        console: Where to say so.

    Raises:
        OptionError: If the folder holds neither.
    """
    folder = Path(source).expanduser()
    if (folder / RESULTS).is_file():
        page = comparison_page(Results.load(folder))
    elif (folder / RUN_FILE).is_file():
        page = _page_of(open_run(folder))
    else:
        raise OptionError(
            "A page is made of a folder that `tfprune prune` or `tfprune compare` wrote, with a "
            f"{RUN_FILE} or a {RESULTS} in it. Received: {source!r}"
        )
    page.save(Path(output).expanduser())
    console.print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)


def _page_of(run: Run) -> Page:
    data = run.about.get("data")
    with np.load(run.folder / INITIAL_FILE) as stored:
        initial = dict(stored)
    return pruning_page(
        run.report,
        run.masks,
        model=load_model(run.folder, purpose="report"),
        initial=initial,
        epochs=run.history["epochs"],
        data=data and data["description"],
    )
