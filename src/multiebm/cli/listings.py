"""`multiebm presets`, `show`, `baselines` and `cite`: what can be run, with which settings, and whose idea it was."""

from collections.abc import Mapping
from typing import Annotated

import typer

from multiebm.cli.options import Overrides


def presets() -> None:
    """List the presets, one line each."""
    from multiebm.experiments.sources import preset_comment, preset_names

    _list({name: (preset_comment(name) or [""])[0] for name in preset_names()})


def baselines() -> None:
    """List the multimodal VAEs, one line each; train one on data D as `multiebm train D-ROW`."""
    from multiebm.experiments import baselines as table

    rows = table.baselines()
    _list({name: rows[name].title for name in rows})


def _list(lines: Mapping[str, str]) -> None:
    width = max(map(len, lines))
    for name, line in lines.items():
        typer.echo(f"{name:<{width}}  {line}")


def cite(row: Annotated[str, typer.Argument(help="A row of `multiebm baselines`, or cooperative.")]) -> None:
    """Print the BibTeX of a method's sources."""
    from multiebm.experiments.baselines import baselines as table
    from multiebm.experiments.references import COOPERATIVE, references

    cooperative = [references()[key] for key in COOPERATIVE]
    typer.echo("\n\n".join(cooperative if row == "cooperative" else table()[row].references))


def show(
    preset: Annotated[str, typer.Argument(help="A preset, a YAML file, a run folder, or a row of the baselines.")],
    overrides: Overrides = None,
    against: Annotated[
        str | None, typer.Option(help="Show only what differs from this preset, file, run or row.")
    ] = None,
) -> None:
    """Show every setting of a configuration and what it means, or how it differs from another; of two baselines, the
    cells that differ.
    """
    from multiebm.experiments.baselines import baselines
    from multiebm.experiments.explain import annotated
    from multiebm.experiments.load import differences, differences_of_rows, load_experiment, say, to_dict

    if against is not None and {preset, against} <= set(baselines()) and not overrides:
        changes = differences_of_rows(against, preset)
    else:
        experiment = load_experiment(preset, overrides or [])
        if against is None:
            typer.echo("\n".join(annotated(to_dict(experiment))).lstrip())
            return
        changes = differences(load_experiment(against), experiment)
    typer.echo("\n".join([f"# {against} -> {preset}", *map(say, changes)]))
