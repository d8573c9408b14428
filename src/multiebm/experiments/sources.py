"""Presets, files and rows of the baselines as plain values, not checked yet: reading them takes no torch."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from multiebm.core.errors import ConfigError
from multiebm.core.keys import CONFIG
from multiebm.core.table import nearest
from multiebm.experiments.baselines import baselines, lay_row
from multiebm.experiments.values import find_item, merge, name_now, parse_file, renamed, set_value

logger = logging.getLogger("multiebm")

PRESETS = Path(__file__).with_name("presets")
DATA_ENDINGS = (".npz", ".npy", ".csv", ".tsv", ".jsonl", ".parquet", ".feather")  # of files that are data
OWN = "or data: a folder, a table or an .npz that is there"
COMMON = "-vae"  # ends the preset with what all baselines on some data share
PUBLISHED = "polymnist"  # data for which rows have published settings
MAX_BASES = 3  # presets that build on presets that build on presets: more nobody can read


def preset_names() -> list[str]:
    """Return the names of the presets shipped with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def data_names() -> list[str]:
    """Return the names of the data on which every row of the baselines has a preset, DATA-ROW."""
    return [name.removesuffix(COMMON) for name in preset_names() if name.endswith(COMMON)]


def preset_comment(name: str) -> list[str]:
    """Return the comment lines a preset begins with: what it is, its command, time and expected numbers."""
    lines = find_config(name).read_text().splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.lstrip("# ") for line in lines[:end]]


def read_source(source: str | Path, depth: int = 0) -> dict[str, Any]:
    """Return the plain values of a preset or file, merged over those of its `base`; values are not checked yet."""
    if isinstance(source, str) and source not in preset_names():
        named = [(data, source.removeprefix(f"{data}-")) for data in data_names() if source.startswith(f"{data}-")]
        for data, row in named:
            if row in baselines():
                raw = lay_row(read_source(f"{data}{COMMON}", depth), baselines()[row])
                return merge(raw, dict(baselines()[row].published)) if data == PUBLISHED else raw
    path = find_config(source)
    raw = parse_file(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: got {type(raw).__name__}, expected a mapping with sections such as data and model")
    _rename(raw, path)
    base, baseline = raw.pop("base", None), raw.pop("baseline", None)
    under: dict[str, Any] = {}
    if base is not None:
        if not isinstance(base, str) or depth >= MAX_BASES:
            what = f"a chain of more than {MAX_BASES} bases" if isinstance(base, str) else f"base: {base!r}"
            raise ConfigError(f"{path}: got {what}, expected one preset or file; write the values out instead")
        beside = path.parent / base  # a base that is a file is looked for beside the file that names it
        under = read_source(beside if beside.is_file() else base, depth + 1)
    if baseline is not None:
        under = lay_row(under, baselines()[baseline])
    return merge(under, raw, str(path))


def _rename(raw: dict[str, Any], path: Path) -> None:
    """Give configurations, as runs and files of older releases have them, the names that settings have now."""
    training = raw.get("training")
    optimiser = training.get("optimiser") if isinstance(training, dict) else None
    if isinstance(optimiser, dict) and {"beta1", "beta2"} <= optimiser.keys():
        optimiser["betas"] = [optimiser.pop("beta1"), optimiser.pop("beta2")]
    for old in renamed():
        if (now := name_now(old)) != old and (taken := _taken(raw, old.split("."))):
            if _taken(deepcopy(raw), now.split(".")):
                raise ConfigError(f"{path}: got {old} and {now}, its name now, expected one; leave the first out")
            set_value(raw, now.split("."), taken[0])
            if path.name != CONFIG:  # that of a run nobody wrote by hand
                logger.warning("%s: %s is an older name of %s, and read as that; write the new one", path, old, now)


def _taken(raw: Any, path: Sequence[str]) -> list[Any]:
    """Take a setting out of nested sections, and those that are empty then; return its value, nothing if none is."""
    at: Any = find_item(raw, path[0]) if isinstance(raw, list) else path[0]
    if at is None or not isinstance(raw, list | dict) or (isinstance(raw, dict) and at not in raw):
        return []
    if len(path) == 1:
        return [raw.pop(at)]
    taken = _taken(raw[at], path[1:])
    if taken and not raw[at]:
        del raw[at]
    return taken


def names_settings(source: Any) -> bool:
    """Return whether `source` names settings (a preset, a YAML file, a run folder), and not data."""
    if not isinstance(source, str | Path):
        return False
    path = Path(source)
    if source in preset_names() or (path / CONFIG).is_file():
        return True
    if path.is_file():  # another one than a YAML file is meant as data, and refused as such if need be
        return path.suffix.lower() in (".yaml", ".yml", "")
    return not path.is_dir() and path.suffix.lower() not in DATA_ENDINGS


def find_config(source: str | Path) -> Path:
    """Return the file meant by a preset's name, a path to a YAML file, or a run folder; ConfigError if none is."""
    path, known, rows = Path(source), preset_names(), list(baselines())
    if source in known:  # also where a folder here has its name
        return PRESETS / f"{source}.yaml"
    if path.is_dir() and (path / CONFIG).is_file():
        return path / CONFIG
    if isinstance(source, Path) or path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        own = "" if path.suffix in (".yaml", ".yml") else f"; {OWN}"
        raise ConfigError(
            f"{path}: got no such file, expected a YAML file or one of {', '.join(known)}{own}.{near_file(path)}"
        )
    if source in rows:
        named = ", ".join(f"{data}-{source}" for data in data_names())
        raise ConfigError(f"preset: got {source!r}, a row of the baselines, expected it with its data: {named}")
    every = [*known, *(f"{data}-{row}" for data in data_names() for row in rows)]
    hint = near_file(source) if Path(source).suffix else nearest(source, every)
    raise ConfigError(
        f"preset: got {source!r}, expected a .yaml file, one of {', '.join(known)}, or DATA-ROW with a row of "
        f"`multiebm baselines`; {OWN}.{hint}"
    )


def near_file(path: str | Path) -> str:
    """Return a sentence naming what there is beside `path` with nearly its name, or an empty string."""
    folder = Path(path).parent
    try:
        found = [of.name for of in folder.iterdir()]
    except OSError:  # then nobody knows
        return ""
    return nearest(Path(path).name, found)
