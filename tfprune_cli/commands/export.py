"""`tfprune export`: a saved Keras model as a verified TFLite file, with the report on it."""

from __future__ import annotations

import click

from tfprune_cli.declaration import command, write_json_output
from tfprune_cli.options import data_options, json_option

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
  tfprune export runs/force_95 -o model.tflite --data digits --int8 --io uint8
      the same for a device whose camera gives, and code takes, integers
  tfprune export model.keras -o m.tflite --quantize float16 --sparse no --json
      every zero stored; the report as JSON
"""

_SPARSE: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


@command(
    "export",
    summary="convert a saved model to a verified TFLite file",
    about=_ABOUT,
    examples=_EXAMPLES,
    exclusive=[("quantize", "int8")],
)
@click.argument(
    "source", metavar="RUN_OR_MODEL", type=click.Path(), help="a .keras file, or a folder that holds model.keras"
)
@click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(), help="the TFLite file to write")
@click.option(
    "--quantize",
    type=click.Choice(("float16", "dynamic", "int8", "int16x8")),
    help="how to store the weights (default: float32); int8 and int16x8 need --data",
)
@click.option("--int8", is_flag=True, help="the same as --quantize int8")
@click.option(
    "--io",
    type=click.Choice(("float32", "int8", "uint8", "int16")),
    default="float32",
    help="type of inputs and outputs: int8 or uint8 with int8, int16 with int16x8 (default: float32)",
)
@click.option(
    "--sparse",
    type=click.Choice(tuple(_SPARSE)),
    default="auto",
    help="leave zeros out of the file; auto does where that pays (default: auto)",
)
@data_options("what to verify and calibrate on (default: synthetic inputs)")
@click.option(
    "--target",
    type=click.Choice(("cpu", "arm")),
    default="cpu",
    help="arm: say which convolutions run sparse there (default: cpu)",
)
@click.option(
    "--cut-string-inputs",
    is_flag=True,
    help="start the file behind the layers that turn strings into numbers",
)
@click.option("--no-measure", is_flag=True, help="don't load and time the files, which takes seconds")
@click.option("--plot", metavar="FILE", type=click.Path(), help="write a picture of the report, such as edge.png")
@json_option
def execute(
    source: str,
    output: str,
    quantize: str | None,
    int8: bool,
    io: str,
    sparse: str,
    data: str | None,
    data_dir: str | None,
    target: str,
    cut_string_inputs: bool,
    no_measure: bool,
    plot: str | None,
    as_json: bool,
) -> None:
    """Export, and print the report."""
    from rich.console import Console

    from tfprune_cli.data import check_data_options, load_data
    from tfprune_cli.saved_models import load_model
    from tfprune_init.errors import OptionError
    from tfprune_init.export import export_tflite
    from tfprune_init.export.conversion import IO

    quantize = "int8" if int8 else quantize
    if quantize in IO and data is None:
        raise OptionError(
            f"{quantize} measures the range of every activation on typical inputs: say which with --data, such as "
            "--data digits or --data tfds:mnist."
        )
    check_data_options(data, data_dir)
    model = load_model(source)
    loaded = None if data is None else load_data(data, data_dir)
    with Console(stderr=True).status("converting, verifying and measuring"):
        report = export_tflite(
            model,
            output,
            quantize=quantize,
            io=io,
            sparse=_SPARSE[sparse],
            representative_data=loaded.train if loaded is not None and quantize in IO else None,
            verify=None if loaded is None else loaded.test,
            cut_string_inputs=cut_string_inputs,
            target=target,
            measure=not no_measure,
        )
    if plot is not None:
        report.plot().savefig(plot, dpi=150)
    if as_json:
        write_json_output(report.to_dict())
        return
    console = Console()
    report.print(console.file)
    if loaded is not None:
        console.print(f"Verified on {loaded.description}", highlight=False, markup=False)
