"""The command line. Commands import what they need when they run, so that help answers at once, without torch."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from multiebm.cli.commands_on_data import data
from multiebm.cli.commands_on_models import encode, impute, likelihood, match, sample, score
from multiebm.cli.commands_on_runs import (
    baselines,
    cite,
    compare,
    evaluate,
    fit_prior,
    fit_refiner,
    presets,
    report,
    show,
    train,
)
from multiebm.cli.options import INTERRUPTED
from multiebm.core.errors import ConfigError, MultiebmError
from multiebm.core.interrupts import interruptible


class Commands(TyperGroup):
    """Commands that Ctrl-C and SIGTERM end in order and with a word, wherever they are."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the command line."""
        with _ending_with_a_word():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        with _ending_with_a_word():
            return super().invoke(ctx)


@contextmanager
def _ending_with_a_word() -> Iterator[None]:
    with interruptible() as interrupts:
        try:
            yield
        except KeyboardInterrupt as stop:
            interrupts.ignore()
            typer.echo(str(stop) or "interrupted; what was there before is whole", err=True)
            raise typer.Exit(INTERRUPTED) from stop


app = typer.Typer(
    name="multiebm", cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
_USE = (sample, impute, encode, likelihood, score, match)
for _command in (train, fit_prior, fit_refiner, *_USE, evaluate, report, presets, show, baselines, cite, compare, data):
    app.command()(_command)


def _say_version(wanted: bool) -> None:
    if wanted:
        import multiebm

        typer.echo(f"multiebm {multiebm.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show how far long work is.")] = False,
) -> None:
    """Multimodal energy-based models: train, then generate, complete and score data that comes in several parts."""
    from multiebm.core.bars import showing

    context.obj = quiet
    context.with_resource(showing(not quiet))
    context.with_resource(each_warning_once())


@contextmanager
def each_warning_once() -> Iterator[None]:
    """A command that reads the same data several times says once what it noticed."""
    said = set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        before = len(said)
        said.add(record.getMessage())
        return len(said) > before

    handler = logging.lastResort or logging.NullHandler()
    handler.addFilter(is_new)
    try:
        yield
    finally:
        handler.removeFilter(is_new)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0, 1 for an error, 2 for a configuration or usage that cannot be, 130 after Ctrl-C or
    SIGTERM.

    Errors raised on purpose are printed without a traceback. Without `arguments` this is the program itself, which
    still minds a signal while the interpreter ends.
    """
    try:
        with interruptible(restore=arguments is not None):
            app(arguments, prog_name="multiebm")
    except MultiebmError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    sys.exit(0)
