"""`multiebm baselines` and `cite`: the table of multimodal VAEs and the papers of its rows."""

from typing import Annotated

import typer


def baselines() -> None:
    """List the multimodal VAEs, one line each; train one on data D as `multiebm train D-ROW`."""
    from multiebm.experiments import baselines as table

    rows = table.baselines()
    width = max(map(len, rows))
    for name in rows:
        typer.echo(f"{name:<{width}}  {rows[name].title}")


def cite(row: Annotated[str, typer.Argument(help="A row of `multiebm baselines`, or cooperative.")]) -> None:
    """Print the BibTeX of a method's sources."""
    from multiebm.experiments.baselines import baselines as table
    from multiebm.experiments.references import COOPERATIVE, references

    typer.echo("\n\n".join([references()[key] for key in COOPERATIVE] if row == "cooperative" else table()[row].references))
