"""What a page is made of, as plain data; the templates beside this file draw it and escape every text in it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


class Text(NamedTuple):
    """A paragraph; `kind` is its look: note, omitted, good, bad, or lines and code, whose line breaks stay."""

    words: str
    kind: str = ""


class Chart(NamedTuple):
    """A drawing, the inside of an SVG element, with the `box` it lies in; `width` in pixels is an upper limit."""

    title: str
    drawing: Markup
    box: str
    width: int


class Picture(NamedTuple):
    """A PNG as data URI; `title` tells what it shows to those who cannot see it."""

    title: str
    uri: str
    width: int


class Strips(NamedTuple):
    """Rows of pictures by name, one picture a row, with `heads` above their columns."""

    rows: Mapping[str, Picture]
    heads: Sequence[str]


class Cell(NamedTuple):
    """A cell of a table with a caption below, coloured by `strength` from 0 to 1."""

    content: str | Text | Chart | Picture
    caption: str = ""
    strength: float = 0.0


class Table(NamedTuple):
    """Rows whose first cell is their name; `kind` is the look: numbers, heat, cross or facts."""

    kind: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


class Block(NamedTuple):
    """Parts under a small heading, with a note below. `kind` cards, two, three or chain: that many side by side where
    there is room; folded: a click opens it.
    """

    title: str
    parts: "Sequence[Text | Chart | Picture | Strips | Table | Block]"
    note: str = ""
    kind: str = ""


Part = Text | Chart | Picture | Strips | Table | Block


class Section(NamedTuple):
    """A titled part of the page; `name` is its anchor, `lead` one plain sentence before its parts."""

    name: str
    title: str
    lead: str
    parts: Sequence[Part]


PAGES = Environment(
    loader=PackageLoader("multiebm.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
PAGES.filters["kind"] = lambda part: type(part).__name__.lower()


def to_page(title: str, sections: Sequence[Section], foot: str) -> str:
    """Return the whole page, one file that fetches nothing."""
    return PAGES.get_template("page.html").render(title=title, sections=sections, foot=foot)
