"""Tables as programs write them: separators, names, line ends; what is read is under its name, the rest refused."""

import pytest
import torch

import multiebm
from multiebm.cli.main import main
from multiebm.core.errors import ConfigError, DataError
from multiebm.data.parts import read_parts
from multiebm.data.sources import read_table


def table_of(tmp_path, text: str, name: str = "t.csv"):
    (tmp_path / name).write_bytes(text.encode("utf-8"))
    return read_table(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "a,b,c\n1,2,x\n3,4,y\n",
        "a,b,c,\n1,2,x,\n3,4,y,\n",  # lines end in a comma
        "a,b,c\n1,2,x,\n3,4,y,\n",  # all but the first do: pandas calls b a
        "a,b,c\n1,2,x,,\n3,4,y,,\n",
        "\ufeffa;b;c\r\n1;2;x\r\n3;4;y\r\n",
        'a,b,"c"\r1,2,x\r3,4,y\r',
        "\n\na|b|c\n\n1|2|x\n3|4|y\n\n",
    ],
)
def test_columns_of_a_csv_have_the_names_above_them(tmp_path, text):
    frame = table_of(tmp_path, text)
    assert frame.to_dict("list") == {"a": [1, 3], "b": [2, 4], "c": ["x", "y"]}


def test_a_cell_before_the_names_is_the_name_of_its_row_and_is_said(tmp_path, caplog):
    frame = table_of(tmp_path, '"a","b"\n"row 1",1,2\n"row 2",3,\n')
    assert frame["a"].tolist() == [1, 3]
    assert frame["b"].fillna(-1).tolist() == [2, -1]
    assert "t.csv: rows have a cell more than there are names; the first is read as the name of a row" in caplog.text
    with pytest.raises(
        DataError, match=r"t.csv: got a table that cannot be read \(1 names in the first line and 3 cells"
    ):
        table_of(tmp_path, "a\n1,2,3\n")


def test_names_and_cells_in_quotes_may_have_line_ends(tmp_path):
    frame = table_of(tmp_path, 'a,"b\nof car"\n1,"x\ny"\n2,"z, w"\n')
    assert frame.to_dict("list") == {"a": [1, 2], "b\nof car": ["x\ny", "z, w"]}


def test_a_name_that_a_csv_has_twice_is_not_taken(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,a\n1,2,3\n4,5,6\n")
    with pytest.raises(ConfigError, match="part 'x': got 2 columns called 'a', expected one; rename them, or give pl"):
        multiebm.read_data(tmp_path / "t.csv", parts={"x": ["a", "b"]})
    data = multiebm.read_data(tmp_path / "t.csv", parts={"x": [2, 1]})
    assert sorted(torch.cat([data.train.views["x"], data.test.views["x"]]).tolist()) == [[3, 2], [6, 5]]


def test_a_file_that_is_neither_data_nor_settings_is_refused_as_data(tmp_path, capsys):
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    for more in ([], ["--part", "x=a"]):
        with pytest.raises(SystemExit, match="1"):
            main(["train", str(tmp_path / "t.xlsx"), *more, "--out", str(tmp_path / "run")])
        assert "t.xlsx: got a file '.xlsx', expected .npz, .csv," in capsys.readouterr().err


def test_numbers_with_commas_are_refused_with_what_reads_them(tmp_path):
    for text in ("a;b\n1,500;2\n2,250;3\n", 'a,b\n"1,500",2\n"2,250",3\n'):
        (tmp_path / "t.csv").write_text(text)
        said = r"column 'a': got a number .* '1,5\d*' in row 0, .*; pandas.read_csv has decimal=',' and thousands=','"
        with pytest.raises(DataError, match=said):
            multiebm.read_data(tmp_path / "t.csv", parts={"x": ["a", "b"]})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a;b\n1,5;2\n2,25;3\n", {"a": [1.5, 2.25], "b": [2, 3]}),
        ("a;b\n0,125;x\n-1,500;y\n", {"a": [0.125, -1.5], "b": ["x", "y"]}),  # 0,125 cannot be thousands
        ("a;b\n1,5e3;1,500\n2;2,250\n", {"a": [1500.0, 2], "b": [1.5, 2.25]}),  # by what the other column says
        ("a;b;\n1,5;2;\n3;4;\n", {"a": [1.5, 3], "b": [2, 4]}),
    ],
)
def test_decimal_commas_between_semicolons_are_read_and_said(tmp_path, caplog, text, found):
    assert table_of(tmp_path, text).to_dict("list") == found
    columns = ", ".join(name for name in found if any(isinstance(of, float) for of in found[name]))
    assert f"are read with a decimal comma, in columns {columns}" in caplog.text


@pytest.mark.parametrize(
    "text",
    ["a;b\n1,500;x\n", "a;b\n1,234,567;x\n1,5;y\n", "a;b\n1,5;x\nlow;y\n", 'a,b\n"1,5",2\n', "a|b\n1,5|2\n"],
)
def test_commas_that_may_be_thousands_or_stand_in_other_files_stay_as_they_are(tmp_path, text):
    frame = table_of(tmp_path, text)
    assert "," in frame["a"][0]


@pytest.mark.parametrize("points", ["2.5", "1.500"])
def test_decimal_commas_beside_points_are_refused_with_both_columns(tmp_path, points):
    with pytest.raises(
        DataError, match=f"t.csv: got '1,5' in column 'a' and '{points}' in column 'b', expected a decimal comma or"
    ):
        table_of(tmp_path, f"a;b\n1,5;{points}\n2;{points}\n")


def test_one_cell_that_is_no_number_does_not_hide_a_column_of_decimal_commas(tmp_path):
    """It is named with its row, as in a column with decimal points."""
    rows = [f"{i},5;{i % 3}" for i in range(30)]
    for cell in ("k.A.", "1.234,5"):
        rows[3] = f"{cell};1"
        (tmp_path / "t.csv").write_text("a;b\n" + "\n".join(rows) + "\n")
        with pytest.raises(
            DataError, match=rf"column 'a': got the text '{cell}' in row 3, expected a number, as 29 of"
        ):
            multiebm.read_data(tmp_path / "t.csv", parts={"x": ["a"], "y": ["b"]})


@pytest.mark.parametrize("cells", [["1,2", "3", "1,2,3"], ["1,5", "x", "2"], ["1,5"] * 20 + ["x"]])
def test_lists_texts_and_tables_with_points_are_not_read_with_decimal_commas(tmp_path, cells):
    """Answers with several choices; a column with many texts; a text beside numbers that have a point."""
    rows = [f"{cell};3.5\n" for cell in cells]
    assert table_of(tmp_path, "a;b\n" + "".join(rows))["a"].tolist() == cells


def test_decimal_commas_are_numbers_of_a_part(tmp_path):
    rows = "".join(f"{i},5;{i * i},25\n" for i in range(40))
    (tmp_path / "t.csv").write_text("a;b\n" + rows)
    data = multiebm.read_data(tmp_path / "t.csv", parts={"x": "a", "y": "b"})
    rows = torch.cat([data.train.views["x"], data.test.views["x"]])
    assert sorted(rows[:, 0].tolist()) == [i + 0.5 for i in range(40)]


def test_a_first_line_of_numbers_is_said_to_be_none_of_names(tmp_path, caplog):
    table_of(tmp_path, "a,b\n1,2\n")
    assert caplog.text == ""
    for text, shown in (("1.5,2\n3,4\n", "1.5, 2"), ("1;2\n3;4\n", "1, 2")):
        table_of(tmp_path, text)
        assert f"t.csv: the first line has numbers alone ({shown}), and is read as the names of columns" in caplog.text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,5;2,5;0,25\n0,5;3,5;1\n2,25;1,5;0\n", [[1.5, 0.5, 2.25], [2.5, 3.5, 1.5], [0.25, 1, 0]]),
        ("1,5;2\n0,5;3,25\n4;1,5\n", [[1.5, 0.5, 4], [2, 3.25, 1.5]]),  # by commas as even
        ("1,5\t2,5\n0,5\t3,5\n2,5\t1,5\n", [[1.5, 0.5, 2.5], [2.5, 3.5, 1.5]]),
        ("5.1,3.5,a\n4.9,3.0,b\n6.2,4.1,a\n", [[5.1, 4.9, 6.2], [3.5, 3.0, 4.1], ["a", "b", "a"]]),  # as iris.data
        ("7,7\n1,2\n", [[7, 1], [7, 2]]),  # names are not twice the same
        ("2.5,,a\n1.5,1,b\n3.5,2,a\n", [[2.5, 1.5, 3.5], [-1, 1, 2], ["a", "b", "a"]]),  # a cell is missing
    ],
)
def test_a_first_line_like_those_below_is_a_row_and_columns_are_numbered(tmp_path, caplog, text, found):
    frame = table_of(tmp_path, text)
    assert list(frame) == [str(i) for i in range(len(found))]
    assert [frame[name].fillna(-1).tolist() for name in frame] == found
    assert (
        f"is read as a row, as it looks like those below; columns are called 0 to {len(found) - 1}. If" in caplog.text
    )


@pytest.mark.parametrize(
    "text",
    [
        "2019,2020,2021,2022\n2020,1999,2030,1\n2018,2021,1,2040\n",  # years
        "2021,2020,2019\n20,19,30\n18,21,1\n",
        "400.5;401.0;401.5;402.0\n0.5;0.25;1;0\n900;1e6;0;500\n",  # of a spectrum
        "0,1,2,3\n0.5,-1,2,5\n-1,4,3,1\n",  # as pandas calls columns without names
        "7157,1956,672\n0,1,2\n3,4,5\n",  # numbers of genes, which no cell has
        "1,x\n1,y\n2,z\n",
        "a,b\nb,a\n",
    ],
)
def test_numbers_that_may_be_names_stay_names(tmp_path, text):
    mark = ";" if ";" in text else ","
    assert list(table_of(tmp_path, text)) == text.splitlines()[0].split(mark)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Temp, C;Hum, %\n21,5;40\n20,25;41\n", ["Temp, C", "Hum, %"]),  # lines are even by semicolons alone
        ("x,y;z\n1,5;2\n2,5;3\n", ["x,y", "z"]),  # all cells are numbers by semicolons alone
        ("name,a;b\nu,1\nv,2\n", ["name", "a;b"]),
        ("a\tb, c\n1\t2\n3\t4\n", ["a", "b, c"]),
    ],
)
def test_what_stands_between_cells_makes_lines_even_and_cells_numbers(tmp_path, text, names):
    assert list(table_of(tmp_path, text)) == names


def test_a_model_of_a_table_without_names_reads_others_without(tmp_path, caplog):
    rows = [f"{i % 7},5;{i % 5},25;{i % 3}\n" for i in range(40)]
    (tmp_path / "t.csv").write_text("".join(rows))
    data = multiebm.read_data(tmp_path / "t.csv", parts={"x": ["0", "1"], "y": [2]}, kinds={"y": "vector"})
    assert len(data.train) + len(data.test) == 40
    (tmp_path / "one.csv").write_text("".join(rows[8:9]))
    caplog.clear()
    found, _ = read_parts(tmp_path / "one.csv", data.modalities)
    assert {name: of.to_numpy().tolist() for name, of in found.items()} == {"x": [[1.5, 3.25]], "y": [[2]]}
    assert "one.csv: the first line (1,5, 3,25, 2) is read as a row" in caplog.text
    (tmp_path / "named.csv").write_text("0;1;2\n" + rows[8])
    found, _ = read_parts(tmp_path / "named.csv", data.modalities)
    assert found["x"].to_numpy().tolist() == [[1.5, 3.25]]


def test_a_path_without_an_ending_that_is_not_there_is_told_what_may_be(tmp_path):
    with pytest.raises(
        DataError,
        match=r"nowhere: got no such file or folder, expected a folder, a table \(.csv, .* or an .npz; correct",
    ):
        multiebm.read_data(tmp_path / "nowhere")
    with pytest.raises(
        ConfigError, match="preset: got 'nowhere', .*; or data: a folder, a table or an .npz that is there"
    ):
        multiebm.train("nowhere", tmp_path / "run")
    with pytest.raises(
        DataError, match="--parts: got .*nowhere, expected an .npz file, .*; there is no such file: correct"
    ):
        read_parts(tmp_path / "nowhere", {})


def test_options_for_data_beside_what_is_not_there_or_names_settings_say_which(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("a\n1\n")
    absent = "got no file or folder, expected your data: a folder, a table or an .npz."
    cases = {
        "nowhere": f"nowhere: {absent}",
        "mine.cvs": f"mine.cvs: {absent} Did you mean 'mine.csv'?",
        "toy2d": "got toy2d, which names settings, with options for data",
    }
    for source, what in cases.items():
        with pytest.raises(SystemExit, match="2"):
            main(["train", source, "--part", "x=a", "--out", "run"])
        assert what in " ".join(capsys.readouterr().err.replace("│", "").split())
    for source in ("mine.cvs", "./mine.cvs"):
        with pytest.raises(ConfigError, match="Did you mean '.*mine.csv'"):
            multiebm.train(source, "run")


def test_a_folder_that_is_in_the_way_is_said_before_the_data_are_read(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("")  # no table, which is said if the folder is new
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    for out, what in (("run", "a folder that is not empty and holds no run"), ("new", "a table that cannot be read")):
        with pytest.raises(SystemExit):
            main(["train", str(tmp_path / "t.csv"), "--out", str(tmp_path / out)])
        assert f"got {what}" in " ".join(capsys.readouterr().err.split())


def test_a_table_that_may_not_be_read_is_told_from_one_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(
        DataError, match=r"t.csv: got a table that cannot be read \(No columns.*\), expected a line of nam"
    ):
        read_table(tmp_path / "t.csv")

    def denied(*args, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("multiebm.data.table_files._read_text", denied)
    with pytest.raises(
        DataError, match=r"t.csv: got a table that cannot be read \(Permission denied\); make it readable"
    ):
        read_table(tmp_path / "t.csv")
