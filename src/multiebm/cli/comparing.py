"""`multiebm compare`: several methods, the same data, the same time to train."""

import re
from pathlib import Path
from typing import Annotated

import typer

from multiebm.cli.training import INTERRUPTED

UNITS = {"s": 1, "m": 60, "h": 3600}


def compare(
    rows: Annotated[
        list[str],
        typer.Argument(
            help="Rows of `multiebm baselines`, combined (the preset itself), or ROW of a preset D-ROW.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of cells, runs and tables; what it holds is not made again.")],
    data: Annotated[
        str, typer.Option(help="A preset that names the data: polydigits, polymnist16, polymnist, toy2d, arrays.")
    ] = ("polydigits"),
    budget: Annotated[str, typer.Option(help="Time to train each, such as 240s, 15m or 1h.")] = "4m",
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N - 1.", min=1)] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting to change in every row.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<i>.")] = "auto",
) -> None:
    """Train and measure methods under one budget, one at a time; writes a table as Markdown, CSV, LaTeX and HTML."""
    seconds = seconds_of(budget)
    import multiebm
    from multiebm.experiments.compare import compare as run

    try:
        cells = run(rows, data, seconds, seeds, out, settings or [], typer.echo, device)
    except KeyboardInterrupt as interrupted:
        typer.echo("interrupted; the same command goes on where it was")
        raise typer.Exit(INTERRUPTED) from interrupted
    typer.echo(f"tables: {out / 'table.md'}, .csv, .tex; page: {multiebm.write_comparison(cells, out, data)}")


def seconds_of(budget: str) -> float:
    """Return the seconds that "240s", "15m" or "1.5h" stand for; ConfigError for anything else."""
    from multiebm.core.errors import ConfigError

    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget.strip())
    if found is None or not float(found[1]):
        raise ConfigError(f"--budget: got {budget!r}, expected a time such as 240s, 15m or 1h")
    return float(found[1]) * UNITS[found[2]]
