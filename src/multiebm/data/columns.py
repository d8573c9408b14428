"""Which columns of a table form which part: said by name, by pattern or by place."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any

import numpy as np

from multiebm.core.errors import ConfigError
from multiebm.core.frames import column_names, plain_name
from multiebm.core.names import name_problem
from multiebm.core.table import nearest

logger = logging.getLogger("multiebm")

Columns = Mapping[str, str | int | Sequence[str | int]]  # part -> its columns, by name, pattern or place


def columns_of(frame: Any, parts: Columns | None, labels: str | None, what: str) -> dict[str, Any]:
    """Return the parts of a table, data frames of their columns; each column may be in one part."""
    known = column_names(frame)
    listed = f"{', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
    if not parts:
        two = f"{known[0]},{known[min(1, len(known) - 1)]}"
        raise ConfigError(
            f"{what}: got a table of {len(known)} columns ({listed}) and not which of them form which part; say it: "
            f"--part NAME={two} for each part, in Python multiebm.read_data(table, parts={{'name': [columns]}}), which "
            f"gives what train takes, or at once multiebm.train(table, parts={{'name': {known[:2]}}})"
        )
    check_parts_said(parts, what)
    if all(isinstance(column, Integral) for column in frame.columns):  # then whole numbers are names, as to pandas
        parts = {part: [str(c) for c in ([of] if isinstance(of, str | int) else of)] for part, of in parts.items()}
    places = columns_of_parts(known, parts if labels is None else {"labels": labels, **parts}, what)
    found = {part: frame.iloc[:, places[part]] for part in parts}
    if labels is not None:
        found["labels"] = frame.iloc[:, places["labels"][0]]
    if unused := set(range(len(known))).difference(*places.values()):
        names = [known[at] for at in sorted(unused)]
        shown = f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        logger.warning("%s: %d columns are in no part and are left aside: %s", what, len(names), shown)
    return found


def check_parts_said(parts: Any, what: str) -> None:
    """Raise ConfigError unless `parts` says by part which columns, by name or place, it has."""
    if not isinstance(parts, Mapping):
        raise ConfigError(
            f"{what}, parts: got {type(parts).__name__}, expected a dict of columns by part; write "
            f"parts={{'name': {list(parts)[:3] if isinstance(parts, list | tuple) else [str(parts)]}}}"
        )
    for part, wanted in parts.items():
        if problem := name_problem(part):
            raise ConfigError(f"{what}, part {part!r}: {problem}")
        several = [wanted] if isinstance(wanted, str | int) or not isinstance(wanted, Iterable) else list(wanted)
        odd = [of for of in several if isinstance(of, bool | np.bool_) or not isinstance(of, str | Integral | tuple)]
        if odd or not several:
            got = repr(odd[0]) if odd else "no column"
            mask = "; of a mask of columns give list(table.columns[mask])" if odd and odd[0] in (True, False) else ""
            raise ConfigError(
                f"{what}, part {part!r}: got {got}, expected columns, by name, pattern or place, such as ['temp', "
                f"'hum*']; say at least one, or leave the part out{mask}"
            )


def columns_of_parts(known: Sequence[str], parts: Columns, what: str) -> dict[str, list[int]]:
    """Return the places of the columns of each part among the `known` ones of a table `what`.

    A column is said by its name, by a pattern of names, or by its place; where no name is the same, it is one that is
    but for spaces around it and the form of its accents. ConfigError where there is no such column, and for one that is
    in two parts.
    """
    listed = f"{', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
    taken: dict[int, str] = {}
    found: dict[str, list[int]] = {}
    for part, wanted in parts.items():
        found[part] = []
        for name in [wanted] if isinstance(wanted, str | int) else wanted:
            name = "_".join(map(str, name)) if isinstance(name, tuple) else name
            if not isinstance(name, Integral) and (n := known.count(name)) > 1:
                raise ConfigError(
                    f"{what}, part {part!r}: got {n} columns called {name!r}, expected one; rename them, or give "
                    f"places (in Python parts={{{part!r}: [{known.index(str(name))}]}})"
                )
            if isinstance(name, Integral):
                matching = [int(name)] if int(name) in range(len(known)) else []
            else:
                like = [at for at, column in enumerate(known) if fnmatchcase(column, str(name))]
                alike = [at for at, column in enumerate(known) if plain_name(column) == plain_name(str(name))]
                matching = [known.index(name)] if name in known else like or (alike if len(alike) == 1 else [])
            if not matching:
                raise ConfigError(
                    f"{what}, part {part!r}: got no column {name!r}, expected some of {listed}."
                    f"{nearest(str(name), list(known))} Correct it"
                )
            for at in matching:
                if taken.setdefault(at, part) != part:
                    raise ConfigError(
                        f"{what}: got column {known[at]!r} in the parts {taken[at]!r} and {part!r}, expected it in "
                        "one; remove it from the other"
                    )
            found[part] += matching
        found[part] = list(dict.fromkeys(found[part]))
    return found
