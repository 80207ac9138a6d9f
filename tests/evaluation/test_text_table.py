"""Tables in Markdown and LaTeX."""

from ssa_jax.evaluation.text_table import latex_table, latex_text, markdown_table

ROWS = [["class", "DSC"], ["a|b", "0.5 [-0.1, +0.9]"], ["", "<0.001"], ["c_d", "50%"]]


def test_markdown():
    assert markdown_table(ROWS) == [
        "| class | DSC |",
        "|---|---|",
        r"| a\|b | 0.5 [-0.1, +0.9] |",
        r"|  | \<0.001 |",
        r"| c\_d | 50% |",
    ]


def test_latex():
    assert latex_table(ROWS, groups=True) == [
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"class & DSC \\",
        r"\midrule",
        r"a$|$b & 0.5 [$-$0.1, $+$0.9] \\",
        r" & $<$0.001 \\",
        r"\midrule",
        r"c\_d & 50\% \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert latex_table(ROWS).count(r"\midrule") == 1


def test_what_latex_reads_as_commands():
    assert latex_text(r"\input{x} $a$ 5% #1 ~ ^ R&D") == (
        r"\textbackslash{}input\{x\} \$a\$ 5\% \#1 \textasciitilde{} \textasciicircum{} R\&D"
    )
    assert latex_text("ground-glass\nA-1 -0.5 +2") == "ground-glass A-1 $-$0.5 $+$2"
