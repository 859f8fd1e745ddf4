"""A table of text as plain text, Markdown, LaTeX (booktabs), CSV or HTML."""

from __future__ import annotations

import csv
import html
import io
import itertools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

DASH = "\u2013"
MAX_LATEX_COLUMNS = 8  # a wider table is scaled down to the width of a line
_CODE = re.compile(r"`([^`]*)`")
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    DASH: "--",
    "Δ": r"$\Delta$",
    "τ": r"$\tau$",
    "<": r"$<$",
    ">": r"$>$",
}


@dataclass(frozen=True)
class Cell:
    """The text of a cell, without markup, and the marks of its footnotes (``a``, ``b``)."""

    text: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table: groups of rows that belong together, footnotes (mark, text) and remarks below it. No title: "".

    Texts of footnotes and remarks may hold `code` in backticks. ``num_label_columns`` columns on the left are aligned
    left, the others right. ``records`` is what CSV has instead of the rows, one value a column; None takes the rows,
    each with the title and with what is noted below the table.
    """

    title: str
    header: tuple[str, ...]
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]
    num_label_columns: int = 1
    footnotes: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    records: tuple[Mapping[str, object], ...] | None = None

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """All rows."""
        return [row for group in self.groups for row in group]


class Footnotes:
    """Hands out a mark for each text, the same for the same text: a, b, ... z, aa, ab."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, text: str) -> str:
        if text not in self._marks:
            number, mark = len(self._marks) + 1, ""
            while number:
                number, digit = divmod(number - 1, 26)
                mark = chr(ord("a") + digit) + mark
            self._marks[text] = mark
        return self._marks[text]

    def all(self) -> tuple[tuple[str, str], ...]:
        return tuple((mark, text) for text, mark in self._marks.items())


def grid(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], **options: object) -> Grid:
    """A grid of plain texts, each row a group of its own."""
    groups = tuple((tuple(map(Cell, row)),) for row in rows)
    return Grid(title, tuple(header), groups, **options)  # type: ignore[arg-type]


def render(grids: Sequence[Grid], style: str) -> str:
    """All tables in one of ``FORMATS``, with a newline at the end."""
    return FORMATS[style](grids)


def _text(grids: Sequence[Grid]) -> str:
    return "\n\n".join(map(_text_table, grids)) + "\n"


def _text_table(table: Grid) -> str:
    rows = [[_marked(cell, " [{}]") for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(table.header, *rows, strict=True)]

    def line(texts: Sequence[str]) -> str:
        adjusted = (
            text.ljust(width) if i < table.num_label_columns else text.rjust(width)
            for i, (text, width) in enumerate(zip(texts, widths, strict=True))
        )
        return "  ".join(adjusted).rstrip()

    lines = [table.title, "", line(table.header), line(["-" * width for width in widths])]
    done = 0
    for i, group in enumerate(table.groups):
        if i and len(group) + len(table.groups[i - 1]) > 2:
            lines.append("")
        lines += [line(row) for row in rows[done : done + len(group)]]
        done += len(group)
    below = [f"[{mark}] {text}" for mark, text in table.footnotes] + list(table.remarks)
    lines += [""] if below else []
    for text in below:
        lines += textwrap.wrap(text, 118, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _markdown(grids: Sequence[Grid]) -> str:
    return "\n\n".join(map(_markdown_table, grids)) + "\n"


def _markdown_table(table: Grid) -> str:
    def escape(text: str) -> str:
        return re.sub(r"([|*<\\`])", r"\\\1", text)

    align = [":--" if i < table.num_label_columns else "--:" for i in range(len(table.header))]
    rows = [[escape(cell.text) + _superscript(cell.marks) for cell in row] for row in table.rows]
    lines = [f"### {table.title}", ""] if table.title else []
    lines += [f"| {' | '.join(row)} |" for row in ([escape(h) for h in table.header], align, *rows)]
    below = [f"<sup>{mark}</sup> {_keep_code(text, escape)}" for mark, text in table.footnotes]
    below += [_keep_code(text, escape) for text in table.remarks]
    lines += ["", "<br>\n".join(below)] if below else []
    return "\n".join(lines)


def _superscript(marks: Sequence[str]) -> str:
    return f"<sup>{','.join(marks)}</sup>" if marks else ""


def _keep_code(text: str, escape: Callable[[str], str]) -> str:
    return "".join(f"`{part}`" if i % 2 else escape(part) for i, part in enumerate(_CODE.split(text)))


def latex_escape(text: str) -> str:
    """Text as LaTeX prints it; a hyphen before a digit is a minus."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w\d])-(?=\d)", "$-$", escaped)


def _latex(grids: Sequence[Grid]) -> str:
    tables = map(_latex_table, grids, _latex_labels(grids))
    return "% needs \\usepackage{booktabs} and \\usepackage{graphicx}\n" + "\n\n".join(tables) + "\n"


def _latex_labels(grids: Sequence[Grid]) -> list[str]:
    """A label for each table, of letters, digits and dashes of its title; equal ones are numbered."""
    labels: list[str] = []
    for table in grids:
        name = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-") or "table"
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        labels.append(next(name for name in names if name not in labels))
    return labels


def _latex_table(table: Grid, label: str) -> str:
    def line(cells: Sequence[Cell]) -> str:
        texts = (
            latex_escape(cell.text) + (f"\\textsuperscript{{{','.join(cell.marks)}}}" if cell.marks else "")
            for cell in cells
        )
        return f"{' & '.join(texts)} \\\\"

    def prose(text: str) -> str:
        parts = (latex_escape(part) for part in _CODE.split(text))
        return "".join(f"\\texttt{{{part}}}" if i % 2 else part for i, part in enumerate(parts))

    columns = "l" * table.num_label_columns + "r" * (len(table.header) - table.num_label_columns)
    is_wide = len(table.header) > MAX_LATEX_COLUMNS
    lines = ["\\begin{table}", "\\centering", f"\\caption{{{latex_escape(table.title)}}}", f"\\label{{tab:{label}}}"]
    lines += ["\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"] if is_wide else []
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", line([Cell(text) for text in table.header]), "\\midrule"]
    for i, group in enumerate(table.groups):
        lines += ["\\addlinespace"] if i and len(group) + len(table.groups[i - 1]) > 2 else []
        lines += [line(row) for row in group]
    lines += ["\\bottomrule", "\\end{tabular}" + ("}" if is_wide else "")]
    below = [f"\\textsuperscript{{{mark}}} {prose(text)}" for mark, text in table.footnotes]
    below += [prose(text) for text in table.remarks]
    lines += ["\\par\\smallskip\\footnotesize\\raggedright", *(f"{text}\\par" for text in below)] if below else []
    return "\n".join([*lines, "\\end{table}"])


def _csv(grids: Sequence[Grid]) -> str:
    """Tables with the same header are one block; an empty line stands before a block with another one."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    last: list[str] = []
    for header, rows in map(_csv_table, grids):
        if rows and header != last:
            out.write("\n" if last else "")
            writer.writerow(header)
            last = header
        writer.writerows(rows)
    return out.getvalue()


def _csv_table(table: Grid) -> tuple[list[str], list[list[object]]]:
    if table.records is not None:
        header = list(table.records[0]) if table.records else []
        return header, [["" if value is None else value for value in record.values()] for record in table.records]
    rows: list[list[object]] = []
    for row in table.rows:
        marks = {mark for cell in row for mark in cell.marks}
        below = [*(text for mark, text in table.footnotes if mark in marks), *table.remarks]
        rows.append([table.title, *(cell.text for cell in row), " ".join(below)])
    return ["title", *table.header, "remarks"], rows


def _html(grids: Sequence[Grid]) -> str:
    style = "table{border-collapse:collapse}td,th{padding:.15em .6em;text-align:right}.l{text-align:left}"
    style += "caption{text-align:left;font-weight:bold}tbody{border-top:1px solid #999}body{font-family:sans-serif}"
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Tables</title><style>{style}</style>'
    return f"{head}</head><body>\n" + "\n".join(map(_html_table, grids)) + "\n</body></html>\n"


def _html_table(table: Grid) -> str:
    def line(cells: Sequence[Cell], tag: str) -> str:
        parts = []
        for i, cell in enumerate(cells):
            name = ' class="l"' if i < table.num_label_columns else ""
            parts.append(f"<{tag}{name}>{html.escape(cell.text)}{_superscript(cell.marks)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    def prose(text: str) -> str:
        return _CODE.sub(r"<code>\1</code>", html.escape(text))

    lines = [f"<table><caption>{html.escape(table.title)}</caption>"]
    lines.append(f"<thead>{line([Cell(text) for text in table.header], 'th')}</thead>")
    lines += [f"<tbody>{''.join(line(row, 'td') for row in group)}</tbody>" for group in table.groups]
    lines.append("</table>")
    lines += [f"<p><sup>{mark}</sup> {prose(text)}</p>" for mark, text in table.footnotes]
    return "\n".join([*lines, *(f"<p>{prose(text)}</p>" for text in table.remarks)])


def _marked(cell: Cell, form: str) -> str:
    return cell.text + (form.format(",".join(cell.marks)) if cell.marks else "")


FORMATS: dict[str, Callable[[Sequence[Grid]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "html": _html,
}
