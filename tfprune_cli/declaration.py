"""How a command is declared, and how its help, its output and its failures are shown.

TensorFlow must not be needed to read a command line, so nothing here imports it before a command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from tfprune_cli.quiet import import_tensorflow

FAILED = 1
INTERRUPTED = 130

LONGEST_MESSAGE = 1_000
"""Characters; messages that quote data have no end of their own."""

_GRAPH_ERROR = "Graph execution error:"
_STACK = ("File ", "Detected at node", "[[{{")


class HelpFormatter(click.HelpFormatter):
    """Begins the usage in lower case."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write how a command is called."""
        super().write_usage(prog, args, prefix or "usage: ")


class CommandContext(click.Context):
    """Writes help with `HelpFormatter`."""

    formatter_class = HelpFormatter


class Command(click.Command):
    """A command whose description and examples keep their lines, and whose failures are a line on the standard error.

    Args:
        exclusive: Pairs of parameters of which only one may be given.
        **settings: What `click.Command` takes.
    """

    context_class = CommandContext

    def __init__(self, *, exclusive: Sequence[tuple[str, str]] = (), **settings: Any):
        super().__init__(**settings)
        self.exclusive = exclusive

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, and refuse those that exclude each other."""
        rest = super().parse_args(ctx, args)
        flags = {param.name: param.opts[-1] for param in self.params}
        for pair in self.exclusive:
            if all(ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE for name in pair):
                one, other = (flags[name] for name in pair)
                raise click.UsageError(f"{one} and {other} exclude each other: give one of them.", ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a failure ends it with the exit code `FAILED`, an interrupt with `INTERRUPTED`."""
        try:
            import_tensorflow()
            self._run(ctx)
        except KeyboardInterrupt:
            click.echo("tfprune: interrupted", err=True)
            ctx.exit(INTERRUPTED)

    def _run(self, ctx: click.Context) -> None:
        from tfprune_init.errors import PruningError

        try:
            super().invoke(ctx)
        except (PruningError, OSError) as error:
            show_error(error)
            ctx.exit(FAILED)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description, its lines as they are."""
        write_lines(formatter, self.help)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, their lines as they are."""
        write_lines(formatter, self.epilog)


def command(
    name: str, *, summary: str, about: str, examples: str, exclusive: Sequence[tuple[str, str]] = ()
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function. A decorator.

    Args:
        name: Name of the command.
        summary: The line in `tfprune -h`.
        about: What it does, for its own help, in lines of at most 80 characters.
        examples: Examples of its use, in lines too.
        exclusive: Pairs of parameters of which only one may be given.
    """
    return click.command(name, cls=Command, short_help=summary, help=about, epilog=examples, exclusive=exclusive)


def show_error(error: Exception) -> None:
    """Write why a command failed to the standard error, as one paragraph."""
    from rich.console import Console

    errors = Console(stderr=True)
    # Brackets in a message are text; lines are broken where a person reads, not where a program does.
    errors.print(
        f"tfprune: {_in_one_paragraph(error)}", markup=False, highlight=False, soft_wrap=not errors.is_terminal
    )


def write_lines(formatter: click.HelpFormatter, text: str | None) -> None:
    """Write a text of the help, its lines as they are."""
    if text:
        formatter.write_paragraph()
        formatter.write(f"{text.rstrip()}\n")


def write_json_output(value: Any) -> None:
    """Write a value as JSON to the standard output."""
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _in_one_paragraph(error: Exception) -> str:
    """Return the message without the stack of lines that TensorFlow adds to what failed in a graph."""
    lines = [line.strip() for line in str(error).replace(_GRAPH_ERROR, "").splitlines()]
    told = [line for line in lines if line and not line.startswith(_STACK)]
    message = " ".join(told)
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]} ..."
