"""A folder of pictures with captions: a table that names both, or name.txt beside name.jpg."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import Array
from multiebm.core.names import MASK
from multiebm.core.table import nearest
from multiebm.data.picture_files import ENDINGS
from multiebm.data.picture_folders import PICTURE, pictures_in, read_part
from multiebm.data.table_files import names_in, table_rows, text_lines

logger = logging.getLogger("multiebm")

CAPTION = "caption"  # the part of captions, beside PICTURE
FILE_COLUMNS, CAPTION_COLUMNS = ("file", "file_name", "image"), ("caption", "text")
TABLES_OF_CAPTIONS = (".csv", ".tsv", ".jsonl")
_SHOWN = 5  # gaps named in a message
_EXPECTED = "expected a picture and a caption in each row; supply it, or train with --missing nan (missing='nan')"


class Pair(NamedTuple):
    """A row: a picture file, a caption, either may be missing; and `where` it stands, for messages."""

    file: Path | None
    caption: str | None
    where: str
    label: Any = None


class Captioned(dict[str, Any]):
    """Pictures uint8 or float [N, H, W, C] and captions [N] by part, masks of what is missing, perhaps `labels` [N].

    `items` [N] are names: rows of one name have the same pictures, and belong in the same split; a row without a name
    is an item of its own. `of_rows` [N] are numbers of items.
    """

    def __init__(self, content: Mapping[str, Any], items: Sequence[str | None]) -> None:
        super().__init__(content)
        self.kinds: dict[str, Any] = {CAPTION: "text"}  # what parts are without a declaration
        place = {name: i for i, name in enumerate(dict.fromkeys(items))}
        alone = len(place)
        self.of_rows = np.array([alone + i if name is None else place[name] for i, name in enumerate(items)])

    @property
    def repeated(self) -> bool:
        """Whether some picture has several rows."""
        return len(np.unique(self.of_rows)) < len(self.of_rows)

    def held_out(self, test_fraction: float, seed: int) -> Array:
        """Return bool [N]: the rows of a share of the pictures, drawn by `seed`, at least one and not all."""
        known, place = np.unique(self.of_rows, return_inverse=True)
        if len(known) < 2:
            raise DataError(
                "data: got one item, as all rows share pictures, expected at least 2, to train and to test on; supply "
                "more, or leave out a part that names one picture in all rows"
            )
        n = min(max(round(len(known) * test_fraction), 1), len(known) - 1)
        chosen = np.random.default_rng(seed).permutation(len(known))[:n]
        return np.isin(place, chosen)


@dataclass(frozen=True)
class CaptionedFolder:
    """The rows of a folder, read but for the pictures themselves."""

    folder: Path
    pairs: list[Pair]

    def read(self, missing: Literal["nan"] | None, labelled: bool, declared: Any = None) -> Captioned:
        """Return what the folder holds; gaps are refused, each with its file and row, unless they are `missing`."""
        self.check_gaps(missing)
        if not any(self.files) or all(pair.caption is None for pair in self.pairs):
            what = "caption" if any(self.files) else "picture that its captions name"
            raise DataError(f"{self.folder}: got no {what}, expected pictures and their captions; supply them")
        content = read_part(self.folder, PICTURE, self.files, missing, declared) | {CAPTION: self.captions()}
        if not (there := self.presence()[CAPTION]).all():
            content[MASK + CAPTION] = there
        if labelled:
            content["labels"] = [pair.label for pair in self.pairs]
        return Captioned(content, [None if file is None else str(file) for file in self.files])

    @property
    def files(self) -> list[Path | None]:
        """The picture of each row, None where it has none."""
        return [pair.file for pair in self.pairs]

    def captions(self) -> Array:
        """Return captions as objects [N], empty where there is none."""
        return np.array([*(pair.caption or "" for pair in self.pairs), None], object)[:-1]

    def presence(self) -> dict[str, Array]:
        """Return by part whether a row has it, bool [N]."""
        return {
            PICTURE: np.array([pair.file is not None for pair in self.pairs], bool),
            CAPTION: np.array([pair.caption is not None for pair in self.pairs], bool),
        }

    def check_gaps(self, missing: Literal["nan"] | None) -> None:
        """Raise DataError for pictures without captions and captions without pictures; warn where these are allowed."""
        gaps = [pair.where for pair in self.pairs if pair.file is None or pair.caption is None]
        if not gaps:
            return
        listed = "; ".join(gaps[:_SHOWN]) + (f"; {len(gaps)} such rows in all" if len(gaps) > _SHOWN else "")
        if missing is None:
            raise DataError(f"{self.folder}: got {listed}; {_EXPECTED}")
        logger.warning("%s: %d of %d rows lack a part: %s", self.folder, len(gaps), len(self.pairs), listed)


def find_captions(folder: Path, labels: str | None = None) -> CaptionedFolder | None:
    """Return the rows of a folder of pictures with captions; None where it is no such folder.

    It has a table with a column of files (FILE_COLUMNS) and one of captions (CAPTION_COLUMNS), or it has no folder of
    pictures and a name.txt beside a picture. `labels` is a column of that table. DataError for a table that cannot be
    read, ConfigError where there is no such column.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    tables = [entry for entry in entries if entry.suffix.lower() in TABLES_OF_CAPTIONS and entry.is_file()]
    columns = {table: named_columns(table) for table in tables}
    tables = [table for table in tables if None not in columns[table].values()]
    for table, of in columns.items():
        if None in of.values() and any(of.values()):
            lacks = " or ".join(CAPTION_COLUMNS if of["file"] else FILE_COLUMNS)
            more = "; columns of it become parts by --part NAME=COLUMN,COLUMN (parts=)" if of["file"] else ""
            logger.warning("%s: not read as a table of captions, it has no column %s%s", table, lacks, more)
    if len(tables) > 1:
        listed = ", ".join(table.name for table in tables)
        raise DataError(f"{folder}: got {len(tables)} tables of captions ({listed}), expected one; move the others")
    if tables:
        return CaptionedFolder(folder, _of_table(folder, tables[0], labels))
    if any(entry.is_dir() and pictures_in(entry) for entry in entries):
        return None
    texts = {entry.stem: entry for entry in entries if entry.suffix.lower() == ".txt" and entry.is_file()}
    pictures = pictures_in(folder)
    if not any(file.stem in texts for file in pictures):
        return None
    if labels is not None:
        raise ConfigError(f"labels: got {labels!r} for files of captions, which have no columns; write a table of both")
    return CaptionedFolder(folder, list(_of_texts(folder, pictures, texts)))


def _of_texts(folder: Path, pictures: list[Path], texts: Mapping[str, Path]) -> Iterator[Pair]:
    named: dict[str, Path] = {}
    for one in pictures:
        if (twin := named.setdefault(one.stem, one)) is not one:
            raise DataError(f"{one}: got a second picture called {one.stem!r}, as {twin.name}; remove one of them")
    for stem in sorted({*named, *texts}):
        file = named.get(stem)
        lines = [line.strip() for line in text_lines(texts[stem])] if stem in texts else []
        said = [(i, line) for i, line in enumerate(lines, 1) if line]
        if file is None and not said:
            logger.warning("%s: an empty text without a picture, which is not read", texts[stem])
        elif file is None:
            for i, line in said:
                yield Pair(None, line, f"a caption in {stem}.txt, line {i}, and no picture {stem}")
        elif not said:
            lacks = f"no caption in {texts[stem].name}" if stem in texts else f"no {stem}.txt"
            yield Pair(file, None, f"{file.name} and {lacks}")
        else:
            yield from (Pair(file, line, "") for _, line in said)


def _of_table(folder: Path, table: Path, labels: str | None) -> list[Pair]:
    """Return the rows of a table in its order, and behind them the pictures beside those that it does not name."""
    names = names_in(table)
    columns = _columns(names)
    if labels is not None and labels not in names:
        hint = nearest(labels, names)
        raise ConfigError(f"{table}: got no column {labels!r}, expected one of {', '.join(names)}.{hint} Correct it")
    if unused := [name for name in names if name not in [*columns.values(), labels]]:
        logger.warning("%s: %d columns are in no part and are left aside: %s", table, len(unused), ", ".join(unused))
    pairs: list[Pair] = []
    for line, row in table_rows(table):
        where = f"{table}, line {line}"
        name, said = _text(row.get(columns["file"] or ""), where), row.get(columns["caption"] or "")
        label = None if labels is None or row.get(labels) == "" else row.get(labels)
        file = file_inside(folder, name, where) if name else None
        there = file is not None and file.is_file()
        for one in (said or [""]) if isinstance(said, list) else [said]:
            caption, gap = _text(one, where), ""
            if not there and not caption:
                raise DataError(f"{where}: got no picture {name!r} and no caption, expected both; remove the line")
            if not caption:
                gap = f"{table.name}, line {line}: no caption of {name}"
            elif not there:
                gap = f"{table.name}, line {line}: no picture {name or 'named'}{like_named(folder, file)}"
            pairs.append(Pair(file if there else None, caption or None, gap, label))
    used = {pair.file for pair in pairs}
    for place in dict.fromkeys([folder, *(file.parent for file in used if file is not None)]):
        others = [other for other in pictures_in(place) if other not in used]
        pairs += [Pair(other, None, f"{other.relative_to(folder)}: not in {table.name}") for other in others]
    return pairs


def like_named(folder: Path, file: Path | None) -> str:
    """Return in brackets the picture whose name is nearest to one that is not there."""
    if file is None or not file.parent.is_dir():
        return ""
    hint = nearest(str(file.relative_to(folder)), [str(one.relative_to(folder)) for one in pictures_in(file.parent)])
    return hint and f" ({hint.strip()})"


def file_inside(folder: Path, name: str, where: str) -> Path:
    """Return the file that a table names; DataError where it lies outside the folder, or is no picture by its name."""
    file = Path(os.path.normpath(folder / name))
    if not file.resolve().is_relative_to(folder.resolve()) or not file.is_relative_to(os.path.normpath(folder)):
        raise DataError(f"{where}: got {name}, outside {folder}, expected a picture in it; copy it there")
    if file.suffix.lower() not in ENDINGS:
        raise DataError(f"{where}: got {name}, expected the name of a picture ({', '.join(ENDINGS)}); convert it")
    return folder / file.relative_to(os.path.normpath(folder))


def _text(value: Any, where: str) -> str:
    if isinstance(value, dict | list | bool):
        raise DataError(f"{where}: got {value!r:.60}, expected a text; write one")
    return "" if value is None else str(value).strip()


def named_columns(table: Path) -> dict[str, str | None]:
    """Return by "file" and "caption" which columns of a table have the files and the captions; None where none has."""
    return _columns(names_in(table))


def _columns(names: Sequence[str]) -> dict[str, str | None]:
    """Return which of the columns has the files and which the captions, capitals or not; None where none has."""
    folded = {name.strip().casefold(): name for name in reversed(names)}
    wanted = {"file": FILE_COLUMNS, "caption": CAPTION_COLUMNS}
    return {of: next((folded[name] for name in known if name in folded), None) for of, known in wanted.items()}
