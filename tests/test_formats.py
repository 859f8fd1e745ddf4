"""Tables of text in five formats."""

from __future__ import annotations

from analysis.formats import Cell, Footnotes, Grid, grid, latex_escape, render

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


def test_csv_and_html() -> None:
    assert render([TABLE], "csv").splitlines() == ["row_name,AP", "a_b|c,1.0 ± 0.1", "paper,2.0 (-1.0)", "<x>,\u2013"]
    records = ({"x": 1, "y": None}, {"x": "a,b", "y": 0.5})
    with_records = Grid("t", ("x",), (), records=records)
    assert render([with_records, with_records], "csv") == 'x,y\n1,\n"a,b",0.5\n1,\n"a,b",0.5\n'
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
