"""`multiebm sample`, `impute`, `encode`, `likelihood`, `score` and `match`: a trained model at work on files."""

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(help="A run folder, or a folder written by save_pretrained.", show_default=False)]
Parts = Annotated[
    Path,
    typer.Option(
        help="An .npz with one array per modality (pictures [N, C, H, W] or [N, H, W, C]) and perhaps present [N, M], "
        "or a folder of <modality>.png or <modality>/*.png (or jpg, bmp, tif, webp), one item by one name."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed; item i depends on it and on i alone.", min=0, max=2**32 - 1)]
TABLES = (".csv", ".jsonl")
Table = Annotated[Path | None, typer.Option(help="A .csv or .jsonl file; CSV on the screen by default.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<i>.")]


def sample(
    run: Run,
    out: Annotated[Path, typer.Option(help="A .png of the pictures, or an .npz of every modality.")],
    n: Annotated[int, typer.Option("-n", "--number", help="Number of joint samples.", min=1)] = 16,
    refine: Annotated[bool, typer.Option("--refine", help="Refine by the data chain of the energy (EBM).")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="T of p(z)^(1/T), at most 1; model.prior.temperature by default.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw joint samples of all modalities."""
    from multiebm.cli.files import check_pictures, check_target, write_views, written
    from multiebm.experiments.data import find_device
    from multiebm.experiments.pretrained import from_pretrained

    check_target(out)
    model = from_pretrained(run, find_device(device))
    check_pictures(out, model.modalities)
    write_views(out, model.sample(n, None if refine else 0, seed, temperature), model.modalities)
    typer.echo(f"{n} samples, {written(out, list(model.modalities), model.modalities)}")


def impute(
    run: Run,
    parts: Parts,
    out: Annotated[Path, typer.Option(help="A .png of the pictures, or an .npz of every wanted modality.")],
    want: Annotated[str | None, typer.Option(help="Modalities to return, as m1,m2; all by default.")] = None,
    refine_steps: Annotated[int, typer.Option(help="Steps of the latent chain on what is observed.", min=0)] = 0,
    refine: Annotated[
        bool, typer.Option("--refine", help="Then run the data chain, observed parts held fixed.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Complete items of which some modalities are given."""
    from multiebm.cli.files import check_pictures, check_target, write_views, written
    from multiebm.data import read_parts
    from multiebm.experiments.data import find_device
    from multiebm.experiments.pretrained import from_pretrained
    from multiebm.models.checks import check_names

    check_target(out)
    model = from_pretrained(run, find_device(device))
    views, present = read_parts(parts, model.modalities)
    wanted = check_names(model.modalities, _names(want), "want")
    check_pictures(out, {name: model.modalities[name] for name in wanted})
    completed = model.impute(views, wanted, refine_steps, None if refine else 0, seed, present)
    write_views(out, completed, {name: model.modalities[name] for name in completed})
    typer.echo(f"{len(next(iter(completed.values())))} items, {written(out, wanted, model.modalities)}")


def encode(
    run: Run,
    parts: Parts,
    out: Annotated[Path, typer.Option(help="An .npz; its array codes has a row an item.")],
    device: Device = "auto",
) -> None:
    """Encode items to the mean of q(z | parts), whichever modalities are given."""
    from multiebm.cli.files import check_target, write_views
    from multiebm.data import read_parts
    from multiebm.experiments.data import find_device
    from multiebm.experiments.pretrained import from_pretrained

    check_target(out, [".npz"])
    model = from_pretrained(run, find_device(device))
    codes = model.encode(*read_parts(parts, model.modalities))
    write_views(out, {"codes": codes}, {})
    typer.echo(f"{len(codes)} codes of {codes.shape[1]} latents: {out}")


def likelihood(
    run: Run,
    parts: Parts,
    given: Annotated[str | None, typer.Option(help="Modalities to condition on, as m1,m2; none by default.")] = None,
    samples: Annotated[int, typer.Option(help="Importance samples an item.", min=1)] = 1000,
    out: Table = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Estimate log p(parts), or log p(the other parts | those given), in nats an item, by importance sampling.

    Estimates are too low, by nats where latents are many, and grow with --samples: raise it until they stay. The
    normaliser of an energy prior is estimated too, from below, which raises them.
    """
    from multiebm.cli.files import check_target, write_scores
    from multiebm.data import read_parts
    from multiebm.experiments.data import find_device
    from multiebm.experiments.pretrained import from_pretrained
    from multiebm.models.checks import check_given

    check_target(out, TABLES)
    model = from_pretrained(run, find_device(device))
    views, present = read_parts(parts, model.modalities)
    names = _names(given)
    check_given(model.modalities, names or [], views)  # before log Z, which takes long
    constant = model.log_normalizer()
    if constant.error:
        typer.echo(f"log Z of the prior, subtracted: {constant.value:.2f} +- {constant.error:.2f} nats", err=True)
    found = model.log_likelihood(views, names, samples, seed, present, constant.value)
    write_scores(out, found.tolist(), "log_likelihood")


def score(run: Run, parts: Parts, out: Table = None, device: Device = "auto") -> None:
    """Score complete items; higher = more like data. Minus the energy, or the log-likelihood of a model without one.

    A log density up to a constant; what is like neither data nor samples an energy was never shown.
    """
    from multiebm.cli.files import check_target, write_scores
    from multiebm.data import read_parts
    from multiebm.experiments.data import find_device
    from multiebm.experiments.pretrained import from_pretrained

    check_target(out, TABLES)
    model = from_pretrained(run, find_device(device))
    views, present = read_parts(parts, model.modalities)
    write_scores(out, model.score(views, present).tolist())


def match(run: Run, parts: Parts, out: Table = None, device: Device = "auto") -> None:
    """Say how well the parts of items belong together: 0 at best, lower = less.

    Minus the squared distance between the codes that two parts have alone, mean over pairs; needs no energy. nan where
    an item has one part alone.
    """
    from multiebm.cli.files import check_target, write_scores
    from multiebm.data import read_parts
    from multiebm.experiments.data import find_device
    from multiebm.experiments.pretrained import from_pretrained

    check_target(out, TABLES)
    model = from_pretrained(run, find_device(device))
    write_scores(out, model.match(*read_parts(parts, model.modalities)).tolist(), "match")


def _names(listed: str | None) -> list[str] | None:
    return None if listed is None else [name.strip() for name in listed.split(",")]
