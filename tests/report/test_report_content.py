import pytest
from markupsafe import Markup
from report_standin import html

from multiebm.report.content import Block, Cell, Chart, Part, Picture, Section, Strips, Table, Text, to_page

EVIL = '<script>alert("x")</script>&'
SAFE = "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;"
PICTURE = Picture(EVIL, EVIL, 8)


@pytest.mark.parametrize(
    "part",
    [
        *[Text(EVIL, kind) for kind in ("", "note", "lines", "code", EVIL)],
        Block(EVIL, [Text(EVIL)], EVIL),
        Block(EVIL, [Text(EVIL)], EVIL, "folded"),
        Block("", [Text(EVIL)], "", EVIL),
        PICTURE,
        Chart(EVIL, Markup(""), EVIL, 1),
        Strips({EVIL: PICTURE}, [EVIL]),
        Table(EVIL, [EVIL], [[EVIL, EVIL, Cell(EVIL), Cell(Text(EVIL, "lines"), EVIL), Cell(PICTURE)]]),
    ],
)
def test_text_is_escaped_wherever_it_goes(part: Part):
    for made in (html(part), to_page(EVIL, [Section(EVIL, EVIL, EVIL, [part])], EVIL)):
        assert "<script" not in made
        assert SAFE in made


def test_parts_stand_in_their_blocks_and_empty_columns_disappear():
    made = html(Block("title", [Text("words")], "more")).replace("\n", "")
    assert made == '<div class="block"><h3>title</h3><p>words</p><p class="note">more</p></div>'
    assert html(Block("", [], kind="two")).strip() == ""


def test_texts_are_a_list_with_an_item_a_line():
    assert html(Text("one <b>\ntwo", "lines")).strip() == '<ul class="lines"><li>one &lt;b&gt;</li><li>two</li></ul>'
