"""The tables of a reproduction for a paper: LaTeX with the package booktabs."""

import itertools

from ...config import PROTOCOLS
from ...scoring import protocols
from .rows import Row, metrics_of

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}  # fmt: skip


def document(report) -> str:
    """All tables, for `\\input` in a document that uses booktabs.

    Args:
        report: a `page.Report`.
    """
    head = "% Needs \\usepackage{booktabs}. Written by MSI-Net's `reproduce`; results.json lists the inputs.\n"
    return head + "\n".join(table(protocol, report) for protocol in PROTOCOLS)


def table(protocol: str, report) -> str:
    """The table of a protocol: a group of lines per network, a line per dataset, a column per metric."""
    metrics = metrics_of(protocol, report.rows)
    arrow = protocols.PROTOCOLS[protocol].arrow
    heads = " & ".join(escape(f"{metric} {arrow(metric)}") for metric in metrics)
    lines = [
        r"\begin{table}",
        r"  \centering",
        r"  \small",
        rf"  \caption{{Scores on the validation images, protocol {escape(protocol)}.}}",
        rf"  \begin{{tabular}}{{l{'r' * len(metrics)}}}",
        r"    \toprule",
        rf"    dataset & {heads} \\",
    ]
    rows = [row for row in report.rows if row.protocol == protocol]
    for title, group in itertools.groupby(rows, key=lambda row: row.title):
        lines += [r"    \midrule", rf"    \multicolumn{{{len(metrics) + 1}}}{{l}}{{\emph{{{escape(title)}}}}} \\"]
        lines += [f"    {escape(row.dataset)} & {cells(row, metrics)} \\\\" for row in group]
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def cells(row: Row, metrics: list[str]) -> str:
    """The numbers of a line, or the reason why there are none."""
    if not row.scores:
        return rf"\multicolumn{{{len(metrics)}}}{{l}}{{failed: {escape(row.reason)}}}"
    found = (row.scores.get(metric) for metric in metrics)
    spread = r" {{\scriptsize $\pm$ {:.3f}}}"
    return " & ".join(
        "--"
        if score is None
        else f"{score.mean:.3f}" + (spread.format(score.high - score.mean) if score.seeds > 1 else "")
        for score in found
    )


def escape(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)
