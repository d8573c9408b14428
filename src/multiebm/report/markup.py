"""Pieces of HTML as strings. What is called body, cell or row is markup already; all else is text and gets escaped."""

from collections.abc import Iterable, Sequence
from html import escape


def text(value: object) -> str:
    """Return `value` as text that is safe inside an element or a quoted attribute."""
    return escape(str(value), quote=True)


def join(bodies: Iterable[str]) -> str:
    """Return the pieces one below the other, empty ones dropped."""
    return "\n".join(body for body in bodies if body)


def paragraph(words: str, kind: str = "") -> str:
    """Return a paragraph of text; `kind` is its CSS class."""
    return f"<p{_class(kind)}>{text(words)}</p>"


def section(name: str, title: str, lead: str, body: str) -> str:
    """Return a titled section with one plain sentence before its body; `name` is the anchor."""
    return join(
        [
            f'<section id="{text(name)}"><h2>{text(title)}</h2>',
            paragraph(lead, "lead") if lead else "",
            body,
            "</section>",
        ]
    )


def block(title: str, body: str, note: str = "") -> str:
    """Return a small titled block, the unit that `columns` lays out, with an optional note below."""
    return join([f'<div class="block"><h3>{text(title)}</h3>', body, paragraph(note, "note") if note else "", "</div>"])


def columns(bodies: Sequence[str], kind: str = "") -> str:
    """Return blocks side by side; they wrap where the window is too narrow."""
    return f'<div class="columns {text(kind)}">{join(bodies)}</div>' if bodies else ""


def disclosure(summary: str, body: str) -> str:
    """Return a part that a click opens; works without a script."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def image(uri: str, alt: str, width: int | None = None) -> str:
    """Return a picture from a data URI; `alt` says what it shows; `width` in CSS pixels is an upper limit."""
    limit = f' style="max-width:{width}px"' if width else ""
    return f'<img src="{text(uri)}" alt="{text(alt)}"{limit}>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table; cells of `rows` are markup (see `cell`), the head is text. It scrolls sideways on its own."""
    top = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table{_class(kind)}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def cell(body: str, kind: str = "", style: str = "") -> str:
    """Return a table cell around markup."""
    return f"<td{_class(kind)}{f' style={chr(34)}{text(style)}{chr(34)}' if style else ''}>{body}</td>"


def row_head(words: str) -> str:
    """Return the heading cell of a table row."""
    return f'<th scope="row">{text(words)}</th>'


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """Return names and values as a two-column list."""
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{text(value)}</dd>' for name, value in pairs)}</dl>"


def bullets(title: str, sentences: Iterable[tuple[bool, str]]) -> str:
    """Return titled sentences one below the other, each marked as good news or not."""
    items = "".join(f'<li class="{"good" if good else "bad"}">{text(words)}</li>' for good, words in sentences)
    return f'<div class="bullets"><h2>{text(title)}</h2><ul>{items}</ul></div>'


def _class(kind: str) -> str:
    return f' class="{text(kind)}"' if kind else ""
