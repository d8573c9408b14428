"""What a data set needs of its publishers, said as plain values beside its loader, and a check of what is there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from multiebm.core.errors import DataError


@dataclass(frozen=True)
class Needed:
    """`count` files below the folder of a data set. `places` are patterns of names, of which any one will do."""

    places: tuple[str, ...]
    count: int = 1


@dataclass(frozen=True)
class Download:
    """One thing to download: its `files`, the page that has it, its `size` in words, licence and citation."""

    title: str
    link: str
    size: str
    licence: str
    citation: str
    files: tuple[Needed, ...]


class Found(NamedTuple):
    """How many of the `needed` files are there, at the pattern `place` that has most of them."""

    needed: Needed
    place: str
    there: int

    @property
    def is_whole(self) -> bool:
        """Whether none is missing."""
        return self.there >= self.needed.count

    def say(self) -> str:
        """Return, say, "missing  train2017/*.jpg: 80 of 118,287 files"."""
        what = "there  " if self.is_whole else "missing"
        others = [place for place in self.needed.places if place != self.place]
        instead = f" (or {', '.join(others)})" if others and not self.there else ""
        many = f": {self.there:,} of {self.needed.count:,} files" if self.needed.count > 1 else ""
        return f"{what}  {self.place}{instead}{many}"


def find_files(root: Path, download: Download) -> list[Found]:
    """Return what of a download is below `root`, a line for each of its files."""
    return [_find(root, needed) for needed in download.files]


def _find(root: Path, needed: Needed) -> Found:
    counts = [sum(path.is_file() for path in root.glob(place)) for place in needed.places]
    most = max(counts)
    return Found(needed, needed.places[counts.index(most)], most)


def said(root: Path, downloads: Sequence[Download]) -> Iterator[str]:
    """Give lines of text: what of each download is there and what is not, where to have it, and on which terms."""
    for download in downloads:
        yield download.title
        yield from (f"  {found.say()}" for found in find_files(root, download))
        for what in ("link", "size", "licence", "citation"):
            yield f"  {what}: {getattr(download, what)}"


def is_whole(root: Path, downloads: Sequence[Download]) -> bool:
    """Return whether nothing is missing."""
    return all(found.is_whole for download in downloads for found in find_files(root, download))


@contextmanager
def readable(dataset: str) -> Iterator[None]:
    """Turn errors of the system, of files that cannot be read, into DataError with the name of the file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{dataset}: got {error.filename}, which cannot be read ({error.strerror}); make it readable, or correct "
            "the folder"
        ) from error
