"""Presets, files and rows of the baselines as plain values, not checked yet: reading them takes no torch."""

from pathlib import Path
from typing import Any

from multiebm.core.errors import ConfigError
from multiebm.core.keys import CONFIG
from multiebm.core.table import nearest
from multiebm.experiments.baselines import baselines, lay_row
from multiebm.experiments.merge import merge
from multiebm.experiments.yaml12 import parse_file

PRESETS = Path(__file__).with_name("presets")
COMMON = "-vae"  # ends the preset with what all baselines on some data share
PUBLISHED = "polymnist"  # data for which rows have published settings
MAX_BASES = 3  # presets that build on presets that build on presets: more nobody can read


def preset_names() -> list[str]:
    """Return the names of the presets shipped with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_comment(name: str) -> list[str]:
    """Return the comment lines a preset begins with: what it is, its command, time and expected numbers."""
    lines = _preset_path(name).read_text().splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.lstrip("# ") for line in lines[:end]]


def read_source(source: str | Path, depth: int = 0) -> dict[str, Any]:
    """Return the plain values of a preset or file, merged over those of its `base`; values are not checked yet."""
    if row := split_row(source):
        data, name = row
        raw = _laid_on_base({"base": f"{data}{COMMON}", "baseline": name}, Path(str(source)), depth)
        return merge(raw, dict(baselines()[name].published)) if data == PUBLISHED else raw
    path = find_config(source)
    raw = parse_file(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: got {type(raw).__name__}, expected a mapping with sections such as data and model")
    return _laid_on_base(raw, path, depth)


def _laid_on_base(raw: dict[str, Any], path: Path, depth: int) -> dict[str, Any]:
    """Return `raw` over the cells of its `baseline` over the values of its `base`, where it names them."""
    base, baseline = raw.pop("base", None), raw.pop("baseline", None)
    under: dict[str, Any] = {} if base is None else _read_base(base, path, depth)
    if baseline is not None:
        under = lay_row(under, baselines()[baseline])
    return merge(under, raw, str(path))


def _read_base(base: Any, path: Path, depth: int) -> dict[str, Any]:
    if not isinstance(base, str) or depth >= MAX_BASES:
        what = f"a chain of more than {MAX_BASES} bases" if isinstance(base, str) else f"base: {base!r}"
        raise ConfigError(f"{path}: got {what}, expected one preset or file; write the values out instead")
    beside = path.parent / base  # a base that is a file is looked for beside the file that names it
    return read_source(beside if beside.is_file() else base, depth + 1)


def split_row(source: str | Path) -> tuple[str, str] | None:
    """Return (data, row) where `source` is DATA-ROW and there is a preset DATA-vae; None where it is anything else."""
    if not isinstance(source, str) or source in preset_names():
        return None
    prefixes = [name.removesuffix(COMMON) for name in preset_names() if name.endswith(COMMON)]
    found = [(p, source.removeprefix(f"{p}-")) for p in prefixes if source.startswith(f"{p}-")]
    return next((pair for pair in found if pair[1] in baselines()), None)


def find_config(source: str | Path) -> Path:
    """Return the file meant by a preset's name, a path to a YAML file, or a run folder; ConfigError if none is."""
    path = Path(source)
    if source in preset_names():  # also where a folder here has its name
        return PRESETS / f"{source}.yaml"
    if path.is_dir() and (path / CONFIG).is_file():
        return path / CONFIG
    looks_like_a_path = isinstance(source, Path) or path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    if not looks_like_a_path:
        return _preset_path(str(source))
    if not path.is_file():
        raise ConfigError(f"{path}: got no such file, expected a YAML file or one of {', '.join(preset_names())}")
    return path


def _preset_path(name: str) -> Path:
    known = preset_names()
    if name in known:
        return PRESETS / f"{name}.yaml"
    data, rows = [x.removesuffix(COMMON) for x in known if x.endswith(COMMON)], list(baselines())
    if name in rows:
        named = ", ".join(f"{x}-{name}" for x in data)
        raise ConfigError(f"preset: got {name!r}, a row of the baselines, expected it with its data: {named}")
    hint = nearest(name, [*known, *(f"{x}-{row}" for x in data for row in rows)])
    raise ConfigError(
        f"preset: got {name!r}, expected a .yaml file, one of {', '.join(known)}, or DATA-ROW with a row of "
        f"`multiebm baselines`.{hint}"
    )
