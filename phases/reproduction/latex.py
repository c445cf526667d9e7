"""The tables of a reproduction for a paper: LaTeX with the package booktabs."""

import itertools
from collections.abc import Sequence

from ...config import PROTOCOLS
from ...scoring import protocols
from .rows import Row, metrics_of

SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
})  # fmt: skip

TABLE = r"""
\begin{table}
  \centering
  \small
  \caption{Scores on the validation images, protocol %s.}
  \begin{tabular}{l%s}
    \toprule
    dataset & %s \\
%s
    \bottomrule
  \end{tabular}
\end{table}
"""


def document(rows: Sequence[Row]) -> str:
    """All tables, for `\\input` in a document that uses booktabs."""
    head = "% Needs \\usepackage{booktabs}. Written by MSI-Net's `reproduce`; results.json lists the inputs.\n"
    return head + "".join(table(protocol, rows) for protocol in PROTOCOLS)


def table(protocol: str, rows: Sequence[Row]) -> str:
    """The table of a protocol: a group of lines per network, a line per dataset, a column per metric."""
    metrics = metrics_of(protocol, rows)
    arrow = protocols.PROTOCOLS[protocol].arrow
    heads = " & ".join(f"{metric} {arrow(metric)}".translate(SPECIAL) for metric in metrics)
    lines = []
    of_protocol = [row for row in rows if row.protocol == protocol]
    for title, group in itertools.groupby(of_protocol, key=lambda row: row.title):
        title = title.translate(SPECIAL)
        lines += [r"    \midrule", rf"    \multicolumn{{{len(metrics) + 1}}}{{l}}{{\emph{{{title}}}}} \\"]
        lines += [f"    {row.dataset.translate(SPECIAL)} & {_cells(row, metrics)} \\\\" for row in group]
    return TABLE % (protocol, "r" * len(metrics), heads, "\n".join(lines))


def _cells(row: Row, metrics: Sequence[str]) -> str:
    """The numbers of a line, or the reason why there are none."""
    if not row.scores:
        return rf"\multicolumn{{{len(metrics)}}}{{l}}{{failed: {row.reason.translate(SPECIAL)}}}"
    cells = []
    for metric in metrics:
        score = row.scores.get(metric)
        spread = rf" {{\scriptsize $\pm$ {score.high - score.mean:.3f}}}" if score and score.seeds > 1 else ""
        cells.append(f"{score.mean:.3f}{spread}" if score else "--")
    return " & ".join(cells)
