import pytest

from multiebm.report.markup import (
    block,
    definitions,
    disclosure,
    image,
    join,
    paragraph,
    row_head,
    section,
    table,
    text,
)

EVIL = '<script>alert("x")</script>&'
SAFE = "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;"


@pytest.mark.parametrize(
    "made",
    [
        text(EVIL),
        paragraph(EVIL, EVIL),
        section(EVIL, EVIL, EVIL, ""),
        block(EVIL, "", EVIL),
        disclosure(EVIL, ""),
        image(EVIL, EVIL),
        table([EVIL], []),
        row_head(EVIL),
        definitions([(EVIL, EVIL)]),
    ],
)
def test_text_is_escaped_wherever_it_goes(made: str):
    assert "<script" not in made
    assert SAFE in made


def test_bodies_are_markup_and_empty_ones_disappear():
    assert join(["<p>a</p>", "", "<p>b</p>"]) == "<p>a</p>\n<p>b</p>"
    assert "<b>bold</b>" in block("title", "<b>bold</b>")
