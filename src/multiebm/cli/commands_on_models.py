"""`multiebm sample`, `impute`, `encode`, `likelihood`, `score` and `match`: a trained model at work on files."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multiebm.cli.options import (
    AnyFile,
    Captions,
    DataSteps,
    Device,
    Diffuse,
    DiffusionSteps,
    LatentSteps,
    Model,
    Noise,
    OldSteps,
    Parts,
    Refine,
    SampleSteps,
    Seed,
    SomeParts,
    Table,
    ViewsFile,
)

if TYPE_CHECKING:
    from torch import Tensor

    from multiebm.core.names import Views
    from multiebm.modalities import Modality
    from multiebm.models.model import MultimodalModel
    from multiebm.models.use import Completion

VIEWS, CODES, TABLES = (".png", ".npz", ".csv"), (".npz", ".csv"), (".csv", ".jsonl")


def sample(
    run: Model,
    out: ViewsFile,
    n: Annotated[int, typer.Option("-n", "--number", help="Number of joint samples.", min=1)] = 16,
    refine: Refine = False,
    data_steps: DataSteps = None,
    temperature: Annotated[
        float | None, typer.Option(help="T of p(z)^(1/T), at most 1; model.temperature by default.")
    ] = None,
    seed: Seed = 0,
    noise: Noise = False,
    latent_steps: SampleSteps = None,
    diffusion: Diffuse = False,
    diffusion_steps: DiffusionSteps = None,
    device: Device = "auto",
    old_steps: OldSteps = None,
) -> None:
    """Draw joint samples of all modalities."""
    from multiebm.cli.outputs import check_form

    model, _, _ = _open(run, device, out)
    check_form(out, model.modalities)
    steps, drawn = _steps(refine, data_steps), _steps(diffusion, diffusion_steps)
    views = model.sample(n, steps, seed, temperature, noise, latent_steps, drawn)
    typer.echo(f"{n} samples, {_write(out, model, views)}")


def impute(
    run: Model,
    parts: SomeParts = None,
    caption: Captions = None,
    out: AnyFile = None,
    want: Annotated[str | None, typer.Option(help="Modalities to return, as m1,m2; all by default.")] = None,
    latent_steps: LatentSteps = 0,
    refine: Refine = False,
    data_steps: DataSteps = None,
    seed: Seed = 0,
    draws: Annotated[
        int | None,
        typer.Option(
            help="Complete so many times: means, in a .csv COLUMN_std too, in an .npz _std and _draws.", min=2
        ),
    ] = None,
    noise: Noise = False,
    best_of: Annotated[
        int | None,
        typer.Option(
            help="Of so many completions keep the one that belongs together best; with --refine as many as the model "
            "was set to by default.",
            min=1,
        ),
    ] = None,
    diffusion: Diffuse = False,
    diffusion_steps: DiffusionSteps = None,
    device: Device = "auto",
    old_steps: OldSteps = None,
) -> None:
    """Complete items of which some modalities are given, in files or as captions."""
    from multiebm.cli.outputs import check_form
    from multiebm.data.parts import columns_aside
    from multiebm.models.use import check_names

    if (parts is None) == (not caption):
        raise typer.BadParameter(f"got {'neither' if parts is None else 'both'} of --parts and --caption, expected one")
    model, views, present = _open(run, device, out, VIEWS, parts)
    wanted = check_names(model.modalities, _names(want), "want")
    check_form(out, {name: model.modalities[name] for name in wanted})
    if caption:
        views = _of_captions(caption, model.modalities)
    steps = _steps(refine, data_steps)
    drawn = _steps(diffusion, diffusion_steps)
    how: dict[str, Any] = {"noise": noise, "best_of": best_of, "diffusion_steps": drawn} | (
        {} if draws is None else {"draws": draws}
    )
    found = model.impute(views, wanted, latent_steps, steps, seed, present, **how)
    if out is None:
        _write(None, model, found)
    else:
        n = len((found if draws is None else found.mean)[wanted[0]])
        beside = None if parts is None or out.suffix.lower() != ".csv" else columns_aside(parts, model.modalities)
        typer.echo(f"{n} items, {_write(out, model, found, beside)}")


def _of_captions(captions: list[str], modalities: "Mapping[str, Modality]") -> dict[str, Any]:
    """Return captions as the one part of `modalities` that speaks; ConfigError where none or several are."""
    from multiebm.core.errors import ConfigError

    names = [name for name, m in modalities.items() if m.speaks]
    if len(names) != 1:
        got = f"parts of captions {', '.join(names)}" if names else f"no part of captions among {', '.join(modalities)}"
        raise ConfigError(f"--caption: got a model with {got}, expected one; hand over parts in a file with --parts")
    return {names[0]: captions}


def encode(
    run: Model,
    parts: Parts,
    out: Annotated[Path, typer.Option(help="An .npz, its array codes with a row an item, or a .csv.")],
    private: Annotated[
        bool, typer.Option("--private", help="Arrays shared and one for each part: what it has for itself.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Encode items to the mean of q(z | parts), whichever modalities are given."""
    model, views, present = _open(run, device, out, CODES, parts)
    if private:
        every = model.encode(views, present, private=True)
        typer.echo(f"{len(every['shared'])} codes, {_write(out, model, every)}")
        return
    codes = model.encode(views, present)
    _write(out, model, {"shared" if out.suffix.lower() == ".csv" else "codes": codes})
    typer.echo(f"{len(codes)} codes of {codes.shape[1]} latents: {out}")


def likelihood(
    run: Model,
    parts: Parts,
    given: Annotated[str | None, typer.Option(help="Modalities to condition on, as m1,m2; none by default.")] = None,
    samples: Annotated[int, typer.Option(help="Importance samples an item.", min=1)] = 1000,
    out: Table = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Estimate log p(parts), or log p(the other parts | those given), in nats an item, by importance sampling.

    Estimates are too low, by nats where latents are many, and grow with --samples: raise it until they stay. The
    normaliser of an energy prior is estimated too, from below, which raises them; once, and then kept beside the model.
    """
    from multiebm.cli.outputs import write_columns
    from multiebm.core.errors import OutputError
    from multiebm.experiments.saved import find_model
    from multiebm.models.use import check_given

    model, views, present = _open(run, device, out, TABLES, parts)
    names = _names(given)
    check_given(model.modalities, names or [], views)  # before log Z, which takes long
    known, constant = model.kept, model.log_normalizer()
    if model.kept is not known:
        with suppress(OutputError):  # of a folder that cannot be written it is estimated again
            model.save_pretrained(find_model(run))
    if constant.error:
        typer.echo(f"log Z of the prior, subtracted: {constant.value:.2f} +- {constant.error:.2f} nats", err=True)
    found = model.log_likelihood(views, names, samples, seed, present, constant.value)
    write_columns(out, {"log_likelihood": found.tolist()})


def score(run: Model, parts: Parts, out: Table = None, device: Device = "auto") -> None:
    """Score complete items; higher = more like data. Minus the energy, plus that of interaction where one has learned,
    or the log-likelihood of a model without energies.

    A log density up to a constant; what is like neither data nor samples an energy was never shown, but
    one of interaction was shown corrupted parts.
    """
    from multiebm.cli.outputs import write_columns

    model, views, present = _open(run, device, out, TABLES, parts)
    write_columns(out, {"score": model.score(views, present).tolist()})


def match(
    run: Model,
    parts: Parts,
    out: Table = None,
    by_part: Annotated[
        bool, typer.Option("--by-part", help="How well each part belongs to the others of its item, too.")
    ] = False,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Items that are as they should be, not of training: marks what falls below them."),
    ] = None,
    rate: Annotated[float, typer.Option(help="False alarms: share of such items that is marked at most.")] = 0.05,
    device: Device = "auto",
) -> None:
    """Say how well the parts of items belong together: higher = better.

    By an energy of interaction where one has learned, in nats up to a constant. Of models of own data, in nats, how
    much likelier they are together than apart. Of others minus the squared distance between the codes that two parts
    have alone, mean over pairs: 0 at best. nan where an item has one part alone. --by-part needs an energy of
    interaction. With --held-out a column NAME_odd is 1 where a value is at or below all but a share --rate of theirs.
    """
    from multiebm.cli.outputs import write_columns
    from multiebm.data import read_parts

    model, views, present = _open(run, device, out, TABLES, parts)
    columns = {"match": model.match(views, present)} | (model.score_parts(views, present) if by_part else {})
    if held_out is not None:
        known, there = read_parts(held_out, model.modalities)
        of_parts: Any = model.threshold(known, rate, "score_parts", there) if by_part else {}
        ends = {"match": model.threshold(known, rate, present=there)} | of_parts
        columns = {n: v for name, of in columns.items() for n, v in ((name, of), (f"{name}_odd", of <= ends[name]))}
    write_columns(out, {name: of.tolist() for name, of in columns.items()})


def _open(
    run: Path, device: str, out: Path | None, endings: Sequence[str] = VIEWS, parts: Path | None = None
) -> "tuple[MultimodalModel, dict[str, Any], Tensor | None]":
    """Return the model, raw parts of items and their mask [N, M]; what would stop writing `out` is raised first."""
    from multiebm.cli.outputs import check_target
    from multiebm.data import read_parts
    from multiebm.experiments.saved import from_pretrained

    check_target(out, endings)
    model = from_pretrained(run, device)
    return model, *(({}, None) if parts is None else read_parts(parts, model.modalities))


def _write(out: Path | None, model: "MultimodalModel", found: "Views | Completion", beside: Any = None) -> str:
    """Write values [B, ...] by name, or completions; return what is where, for the user.

    A .csv begins with the columns of the data frame `beside`, if there is one. Of completions an .npz has `NAME_std`
    and `NAME_draws` too, a .csv, or None, the screen, the deviations of columns.
    """
    from multiebm.cli.outputs import write_frame, write_views

    values, more = (found, {}) if isinstance(found, dict) else (found.mean, {"std": found.std, "draws": found.draws})
    if out is None or out.suffix.lower() == ".csv":
        frame = model.frame(found)
        write_frame(out, frame if beside is None else beside.drop(columns=frame.columns, errors="ignore").join(frame))
        return f"{', '.join(values)}: {out}"
    others = {f"{name}_{what}": of[name] for what, of in more.items() for name in values}
    return write_views(out, values | (others if out.suffix.lower() == ".npz" else {}), model.modalities)


def _steps(refine: bool, steps: int | None) -> int | None:
    """Return the steps of a refiner as a model takes them: None are those that it was trained with."""
    return steps if refine or steps is not None else 0


def _names(listed: str | None) -> list[str] | None:
    return None if listed is None else [name.strip() for name in listed.split(",")]
