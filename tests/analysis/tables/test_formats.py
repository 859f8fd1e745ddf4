"""Tables of text in five formats."""

from __future__ import annotations

import csv
import io
import re

from analysis.tables.formats import Cell, Footnotes, Grid, grid, latex_escape, render

TABLE = Grid(
    "A & B",
    ("row_name", "AP"),
    (
        ((Cell("a_b|c", ("a",)), Cell("1.0 ± 0.1")), (Cell("paper"), Cell("2.0 (-1.0)"))),
        ((Cell("<x>"), Cell("\u2013")),),
    ),
    footnotes=(("a", "see `run_1`"),),
    remarks=("100% sure",),
)


def test_text() -> None:
    assert render([TABLE], "text").splitlines() == [
        "A & B",
        "",
        "row_name           AP",
        "---------  ----------",
        "a_b|c [a]   1.0 ± 0.1",
        "paper      2.0 (-1.0)",
        "",
        "<x>                 \u2013",
        "",
        "[a] see `run_1`",
        "100% sure",
    ]


def test_markdown() -> None:
    assert render([TABLE], "markdown").splitlines() == [
        "### A & B",
        "",
        "| row_name | AP |",
        "| :-- | --: |",
        r"| a_b\|c<sup>a</sup> | 1.0 ± 0.1 |",
        "| paper | 2.0 (-1.0) |",
        r"| \<x> | " + "\u2013 |",
        "",
        "<sup>a</sup> see `run_1`<br>",
        "100% sure",
    ]


def test_latex() -> None:
    out = render([TABLE], "latex")
    assert r"\caption{A \& B}" in out
    assert r"a\_b|c\textsuperscript{a} & 1.0 $\pm$ 0.1 \\" in out
    assert "\\addlinespace\n$<$x$>$ & -- \\\\" in out
    assert r"\textsuperscript{a} see \texttt{run\_1}" in out
    assert r"100\% sure" in out
    assert latex_escape(r"\{~^#$ x-1 -1") == r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}\#\$ x-1 $-$1"


def test_latex_labels_are_unique_names_from_titles() -> None:
    titles = ["Table 8: AP ± Δ of a_b", "", "x", "X!", "x 2", ""]
    out = render([grid(title, ["a"], [["1"]]) for title in titles], "latex")
    assert re.findall(r"\\caption\{.*\}\n\\label\{tab:(.*)\}", out) == [
        "table-8-ap-of-a-b", "table", "x", "x-2", "x-2-2", "table-2",
    ]  # fmt: skip


def test_latex_scales_tables_that_no_page_is_wide_enough_for() -> None:
    out = render([grid("eight", ["a"] * 8, [["1"] * 8]), grid("nine", ["a"] * 9, [["1"] * 9])], "latex")
    assert out.startswith("% needs \\usepackage{booktabs} and \\usepackage{graphicx}\n")
    eight, nine = out.split("\\begin{table}")[1:]
    assert "resizebox" not in eight
    assert (
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n\\begin{tabular}{lrrrrrrrr}\n"
        in nine
    )
    assert "\\bottomrule\n\\end{tabular}}\n\\end{table}" in nine
    assert all(text.count("{") == text.count("}") for text in (eight, nine))


def read_csv(text: str) -> list[list[dict[str, str]]]:
    """The blocks between empty lines."""
    return [list(csv.DictReader(io.StringIO(block))) for block in text.split("\n\n")]


def test_csv_says_of_each_row_which_table_it_is_of_and_what_is_noted_there() -> None:
    small = grid("AP, by size", ["size", "AP"], [["small", "1.0"]])
    by_class = grid("AP by class", ["class", "AP"], [["cat", "2.0"]], remarks=("One,", "two."))
    other = grid("AP by size", ["size", "AP"], [["small", "3.0"], ["large", "4.0"]])
    assert read_csv(render([small, other, by_class, TABLE], "csv")) == [
        [
            {"title": "AP, by size", "size": "small", "AP": "1.0", "remarks": ""},
            {"title": "AP by size", "size": "small", "AP": "3.0", "remarks": ""},
            {"title": "AP by size", "size": "large", "AP": "4.0", "remarks": ""},
        ],
        [{"title": "AP by class", "class": "cat", "AP": "2.0", "remarks": "One, two."}],
        [
            {"title": "A & B", "row_name": "a_b|c", "AP": "1.0 ± 0.1", "remarks": "see `run_1` 100% sure"},
            {"title": "A & B", "row_name": "paper", "AP": "2.0 (-1.0)", "remarks": "100% sure"},
            {"title": "A & B", "row_name": "<x>", "AP": "\u2013", "remarks": "100% sure"},
        ],
    ]
    assert render([grid("none", ["a"], [])], "csv") == ""


def test_csv_takes_records_as_they_are() -> None:
    records = ({"x": 1, "y": None}, {"x": "a,b", "y": 0.5})
    with_records = Grid("t", ("x",), (), records=records)
    assert render([with_records, with_records], "csv") == 'x,y\n1,\n"a,b",0.5\n1,\n"a,b",0.5\n'
    assert render([Grid("t", ("x",), (), records=()), with_records], "csv") == 'x,y\n1,\n"a,b",0.5\n'


def test_html() -> None:
    out = render([TABLE], "html")
    assert '<td class="l">&lt;x&gt;</td>' in out
    assert '<td class="l">a_b|c<sup>a</sup></td><td>1.0 ± 0.1</td>' in out
    assert "<code>run_1</code>" in out


def test_a_plain_grid() -> None:
    table = grid("", ["a", "b"], [["x", "1"], ["y", "2"]])
    assert render([table], "markdown") == "| a | b |\n| :-- | --: |\n| x | 1 |\n| y | 2 |\n"


def test_footnotes_share_marks() -> None:
    footnotes = Footnotes()
    marks = [footnotes.mark(text) for text in ("x", "y", "x", *map(str, range(26)))]
    assert marks[:4] == ["a", "b", "a", "c"]
    assert marks[-3:] == ["z", "aa", "ab"]
    assert footnotes.all()[:2] == (("a", "x"), ("b", "y"))
