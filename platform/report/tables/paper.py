"""A paper's table as LaTeX, Typst, Markdown, HTML and CSV: every cell is a number of its record, rounded."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import fields

from equipoise.platform.analysis.paper_table import Cell, PaperTable

MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """Rounded, never a zero with a minus."""
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text if float(text) or not text.startswith("-") else text.replace("-", "+" if signed else "")


def _ends(low: float | None, high: float | None, digits: int, *, signed: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"[{number(low, digits, signed=signed)}, {number(high, digits, signed=signed)}]"


def _accuracy(cell: Cell, digits: int) -> tuple[str, str, str]:
    """Number, mark and interval."""
    return number(cell.mean, digits), "", _ends(cell.low, cell.high, digits)


def _gain(cell: Cell, digits: int) -> tuple[str, str, str]:
    if cell.gain is None:
        return "", "", ""
    mark = "*" if cell.more_than_chance else ""
    return number(cell.gain, digits, signed=True), mark, _ends(cell.gain_low, cell.gain_high, digits, signed=True)


Dress = Callable[[tuple[str, str, str], bool], str]


def _cells(table: PaperTable, digits: int, dress: Dress) -> list[list[str]]:
    """Rows of dressed cells: an accuracy and a gain for each benchmark."""
    rows = []
    for row in table.rows:
        cells = []
        for b in table.benchmarks:
            cell = row.cells.get(b)
            if cell is None:
                cells += ["", ""]
            else:
                cells += [dress(_accuracy(cell, digits), cell.best), dress(_gain(cell, digits), False)]
        rows.append(cells)
    return rows


def latex(table: PaperTable, digits: int = 1) -> str:
    """A ``table*`` with booktabs, to be put into a document that loads that package."""

    def dress(parts: tuple[str, str, str], best: bool) -> str:
        value, mark, ends = parts
        if not value:
            return ""
        main = rf"\mathbf{{{value}}}" if best else value
        return f"${main}" + (f"^{{{mark}}}" if mark else "") + (f"_{{{ends}}}" if ends else "") + "$"

    head = " & ".join(rf"\multicolumn{{2}}{{c}}{{{_tex(b)}}}" for b in table.benchmarks)
    rules = " ".join(rf"\cmidrule(lr){{{3 + 2 * i}-{4 + 2 * i}}}" for i in range(len(table.benchmarks)))
    under = " & ".join(["accuracy", "gain"] * len(table.benchmarks))
    lines = [
        r"\begin{table*}",
        r"\centering\small\setlength{\tabcolsep}{2.5pt}",
        rf"\caption{{{_tex(table.title)}}}",
        rf"\begin{{tabular}}{{lr{'rr' * len(table.benchmarks)}}}",
        r"\toprule",
        rf" & & {head} \\",
        rules,
        rf"Variant & Seeds & {under} \\",
        r"\midrule",
        *(
            rf"\texttt{{{_tex(row.variant)}}} & {row.seeds} & {' & '.join(cells)} \\"
            for row, cells in zip(table.rows, _cells(table, digits, dress), strict=True)
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize",
        *(rf"{_tex(note)}\par" for note in table.notes),
        r"\end{minipage}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{c: "\\" + c for c in "&%$#_{}"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


def typst(table: PaperTable, digits: int = 1) -> str:
    """A figure with a table of three rules."""

    def dress(parts: tuple[str, str, str], best: bool) -> str:
        value, mark, ends = (_typ(part.replace("-", MINUS)) for part in parts)
        if not value:
            return "[]"
        main = f"#strong[{value}]" if best else value
        return f"[{main}{mark}" + (f"#sub[{ends}]" if ends else "") + "]"

    columns = 2 + 2 * len(table.benchmarks)
    head = ", ".join(f"table.cell(colspan: 2, align: center)[{_typ(b)}]" for b in table.benchmarks)
    under = ", ".join(["[accuracy]", "[gain]"] * len(table.benchmarks))
    lines = [
        "#figure(",
        f"  caption: [{_typ(table.title)}],",
        "  [#table(",
        f"    columns: {columns}, stroke: none, align: (left,) + (right,) * {columns - 1},",
        f"    table.hline(), [], [], {head},",
        f"    [Variant], [Seeds], {under}, table.hline(stroke: 0.5pt),",
        *(
            f"    raw({_quoted(row.variant)}), [{row.seeds}], {', '.join(cells)},"
            for row, cells in zip(table.rows, _cells(table, digits, dress), strict=True)
        ),
        "    table.hline(),",
        "  )",
        "  #set text(size: 0.8em)",
        *(f"  {_typ(note)} \\" for note in table.notes),
        "  ]",
        ")",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _typ(text: str) -> str:
    return re.sub(r"([\\#*_`$<>@\[\]~=/+-])", r"\\\1", text)


def markdown(table: PaperTable, digits: int = 1) -> str:
    """A pipe table, its notes below."""

    def dress(parts: tuple[str, str, str], best: bool) -> str:
        value, mark, ends = parts
        main = f"**{value}**" if best else value
        return f"{main}{_md(mark)}" + (f" {ends}" if ends else "")

    head = ["variant", "seeds", *(f"{b} {what}" for b in map(_md, table.benchmarks) for what in ("%", "gain"))]
    rows = [
        [
            f"`{row.variant}`" if "`" not in row.variant and "|" not in row.variant else _md(row.variant),
            str(row.seeds),
            *c,
        ]
        for row, c in zip(table.rows, _cells(table, digits, dress), strict=True)
    ]
    marks = ["---", *("---:" for _ in head[1:])]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, marks, *rows)]
    return "\n".join([_md(table.title), "", *lines, "", *(f"{_md(note)}\n" for note in table.notes)])


def _md(text: str) -> str:
    return re.sub(r"([\\`*_|<>#\[\]])", r"\\\1", text)


def html_table(table: PaperTable, digits: int = 1) -> str:
    """A ``<table>`` with its caption and notes, without styles."""

    def dress(parts: tuple[str, str, str], best: bool) -> str:
        value, mark, ends = parts
        value, ends = value.replace("-", MINUS), ends.replace("-", MINUS)
        main = f"<strong>{value}</strong>" if best else value
        return f"<td>{main}{mark}" + (f" <small>{ends}</small>" if ends else "") + "</td>"

    head = "".join(f'<th scope="colgroup" colspan="2">{html.escape(b)}</th>' for b in table.benchmarks)
    under = '<th scope="col">accuracy</th><th scope="col">gain</th>' * len(table.benchmarks)
    body = "\n".join(
        f'<tr><th scope="row">{html.escape(row.variant)}</th><td>{row.seeds}</td>{"".join(cells)}</tr>'
        for row, cells in zip(table.rows, _cells(table, digits, dress), strict=True)
    )
    notes = "\n".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    first = '<th scope="col">variant</th><th scope="col">seeds</th>'
    return (
        f"<table>\n<caption>{html.escape(table.title)}</caption>\n<thead>\n"
        f'<tr><td colspan="2"></td>{head}</tr>\n<tr>{first}{under}</tr>\n'
        f"</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n{notes}\n"
    )


def comma_separated(table: PaperTable, digits: int | None = None) -> str:
    """One row for each variant and benchmark with everything that is known of it, whole numbers unless rounded."""
    names = [field.name for field in fields(Cell)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "seeds", "benchmark", "part", *names])
    for row in table.rows:
        for b, cell in row.cells.items():
            values: Sequence[object] = [getattr(cell, name) for name in names]
            if digits is not None:
                values = [number(v, digits) if isinstance(v, float) else v for v in values]
            writer.writerow([row.variant, row.seeds, b, table.part, *("" if v is None else v for v in values)])
    return text.getvalue()


FORMATS: dict[str, Callable[[PaperTable, int], str]] = {
    "latex": latex,
    "markdown": markdown,
    "csv": lambda table, _: comma_separated(table),
    "html": html_table,
    "typst": typst,
}
