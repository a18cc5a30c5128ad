"""Reads the command line and hands over to the file of a command, which is imported when it is asked for."""

from __future__ import annotations

import pkgutil
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

import click
from click.shell_completion import get_completion_class

from tfprune_cli import commands
from tfprune_cli.declaration import INTERRUPTED, CommandContext, write_lines

PROGRAM = "tfprune"

_COMPLETE = "_TFPRUNE_COMPLETE"

_ABOUT = """Prune Keras models before they are trained, and export them to verified TFLite
files."""

_EPILOG = """examples:
  tfprune demo                           train dense and pruned, and export both
  tfprune methods                        list the pruning methods
  tfprune prune m.keras --data digits --sparsity 0.95 -o run
                                         prune a saved model into the folder run
  tfprune train run --epochs 20          train it, pruned weights at zero
  tfprune run lottery_ticket m.keras --data digits --sparsity 0.9 -o run
                                         any method from start to end
  tfprune show run                       what is left, and how accurate it is
  tfprune export run -o m.tflite         a verified TFLite file of it
  tfprune inspect m.tflite               what is inside a TFLite file
  tfprune compare lenet.toml             methods x sparsities x seeds
  tfprune report run -o report.html      a page about a run or a comparison
  tfprune prune -h                       all options of a command
  eval "$(tfprune --show-completion bash)"
                                         complete words with the tab key; in
                                         ~/.bashrc for each new shell

exit codes:
  0    done
  1    failed; the reason is on the standard error
  2    wrong usage
  130  interrupted
"""


class LazyGroup(click.Group):
    """A group whose commands are the modules of `tfprune_cli.commands`, each imported when it is needed."""

    context_class = CommandContext

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return list_commands()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or None."""
        if cmd_name not in list_commands():
            return None
        found: click.Command = import_module(f"{commands.__name__}.{cmd_name}").execute
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names; if there is none, say which was perhaps meant."""
        name = args[0]
        if name not in list_commands() and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.exceptions.NoSuchCommand(name, possibilities=list_commands(), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description, its lines as they are."""
        write_lines(formatter, self.help)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples and exit codes, their lines as they are."""
        write_lines(formatter, self.epilog)


def list_commands() -> list[str]:
    """Return the names of all commands, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `tfprune`.

    Args:
        arguments: The words after `tfprune`; by default those of this process.

    Returns:
        The exit code: 0, or 1 if something failed, 2 for wrong usage, 130 if interrupted.

    Example:
        >>> main(["methods"])  # doctest: +SKIP
        0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _program.main(words, PROGRAM, _COMPLETE, standalone_mode=False, obj=shlex.join([PROGRAM, *words]))
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo(f"{PROGRAM}: interrupted", err=True)
        return INTERRUPTED
    return code or 0


def _show_completion(ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
    """Write the script that completes words in a shell."""
    if shell is None or ctx.resilient_parsing:
        return
    completion = get_completion_class(shell)
    assert completion is not None  # click has all that the option lets through
    click.echo(completion(ctx.command, {}, PROGRAM, _COMPLETE).source())
    ctx.exit()


@click.group(cls=LazyGroup, help=_ABOUT, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tfprune_init", message=f"{PROGRAM} %(version)s", help="show the version and exit")
@click.option(
    "--show-completion",
    type=click.Choice(("bash", "fish", "zsh")),
    expose_value=False,
    is_eager=True,
    callback=_show_completion,
    help="print the script that completes words in this shell, and exit",
)
def _program() -> None:
    """Take the options that stand before the command."""
