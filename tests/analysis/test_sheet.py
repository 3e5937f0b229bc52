from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis.sheet import Sheet
from analysis.sheet_latex import escape as latex_escape
from analysis.sheet_markdown import escape as markdown_escape
from analysis.typeset import is_number, minus, plus_minus

NASTY = r"a_b 50% R&D <b>x</b> {y} #1 ~^ \z $5 'q' \"r\" naïve Müller Šindelář 日本 |"


@pytest.fixture
def sheet() -> Sheet:
    return Sheet(
        name="DEMO_f1_2",
        subject="DEMO: a_b & c",
        title="F1 of 50% <cells>",
        head=["DEMO: a_b & c (study, preset demo)", "data: x_y, 4 classes"],
        part=["Table 2 of 2: learning_rate 0.1"],
        numbers=pd.DataFrame({"f1": [0.7, 0.8, 0.75], "trial_ids": ["aa bb", "cc", ""]}),
        rows=[
            ["class", "macro-F1", "difference"],
            [NASTY, "0.700 +-0.010*", "-0.012 +-0.003"],
            ["[two]", "0.800 +-0.010", "-"],
            ["*three", "0.750 (n=1)", "+0.100 (n=1)"],
        ],
        notes=["* The outputs of some_thing collapsed in 1 & 2.", "{best}: best; {tied}: not distinguishable.", "# x"],
        bold=frozenset({(1, "macro-F1")}),
        ties=frozenset({(0, "macro-F1"), (2, "macro-F1")}),
        trials=["aa bb", "cc", ""],
    )


# Text


def test_text_has_title_rows_signs_and_notes_but_those_told_elsewhere(sheet: Sheet) -> None:
    lines = sheet.text(frozenset({"# x"})).splitlines()
    assert lines[:2] == ["Table 2 of 2: learning_rate 0.1", "F1 of 50% <cells>"]
    assert "+-0.010*~" in lines[4] and "+-0.010^" in lines[5]
    assert lines[7:] == ["* The outputs of some_thing collapsed in 1 & 2.", "^: best; ~: not distinguishable."]


def test_the_narrow_form_is_for_terminal_and_print_and_the_marks_follow_their_header(sheet: Sheet) -> None:
    narrow = [["macro-F1", "x"], ["0.7", "1"], ["0.8", "2"], ["0.75", "3"]]
    short = Sheet(**{**vars(sheet), "narrow": narrow, "narrow_notes": ["short"]})
    assert short.text().splitlines()[2:] == [
        "macro-F1  x",
        "-----------",
        "0.7~      1",
        "0.8^      2",
        "0.75~     3",
        "short",
    ]
    assert r"\textbf{0.8} & 2 \\" in short.latex() and "short" in short.latex() and "collapsed" not in short.latex()
    assert "<strong>0.8</strong>" in short.html() and "**0.800 +-0.010**" in short.markdown()


# Markdown


def test_markdown_escapes_and_marks(sheet: Sheet) -> None:
    text = sheet.markdown()
    assert text.startswith("DEMO: a_b \\& c (study, preset demo)  \ndata: x_y, 4 classes  \nTable 2 of 2")
    row = next(line for line in text.splitlines() if line.startswith("| a_b"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
    assert (
        r"\<b>x\</b>" in row
        and r"R\&D" in row
        and r"\~^ \\z" in row
        and row.endswith(r"| 0.700 +-0.010\*† | -0.012 +-0.003 |")
    )
    assert "| [two] | **0.800 +-0.010** | - |" in text
    assert "\n\n**bold**: best; †: not distinguishable.\n\n\\# x\n" in text


def test_an_underscore_inside_a_word_is_no_emphasis_and_stays() -> None:
    assert markdown_escape("a_b _c_ d_ *e*") == r"a_b \_c\_ d\_ \*e\*"


# LaTeX


def latex_rows(text: str) -> list[list[str]]:
    r"""Return the cells of the one tabular, after checking everything around it.

    Checks: ASCII; braces and environments are balanced; no special sign is bare; every row has as many cells as the
    tabular has columns.
    """
    assert text.isascii()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[A-Za-z]+|\\.", "", body.replace(r"\\", ""))
    assert not re.search(r"[#%_<>|~]", re.sub(r"\$[^$]*\$", "", bare)), "a special sign is not escaped"
    assert "^" not in re.sub(r"\$[^$]*\$", "", bare) and bare.count("$") % 2 == 0
    depth = 0
    for sign in bare:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    (columns, inside) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", body, flags=re.DOTALL)[0]
    lines = [line for line in inside.splitlines() if line not in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert all(line.endswith(r" \\") for line in lines)
    rows = [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines]
    assert {len(row) for row in rows} == {len(columns)}
    assert not any(row[0].lstrip().startswith(("[", "*")) for row in rows), r"\\ would take it as its argument"
    assert inside.count(r"\toprule") == inside.count(r"\midrule") == inside.count(r"\bottomrule") == 1
    return [[cell.strip() for cell in row] for row in rows]


def test_latex_is_sound_whatever_the_names(sheet: Sheet) -> None:
    text = sheet.latex()
    rows = latex_rows(text)
    assert rows[0] == ["class", "macro-F1", "difference"]
    assert rows[1][1:] == [r"0.700\,$\pm$\,0.010*$^{\dagger}$", r"$-$0.012\,$\pm$\,0.003"]
    assert rows[2] == ["{}[two]", r"\textbf{0.800\,$\pm$\,0.010}", "--"]
    assert rows[3][0] == "{}*three"
    for part in (
        r"a\_b 50\% R\&D \textless{}b\textgreater{}",
        r"\{y\} \#1 \textasciitilde{}\textasciicircum{}",
        r"\$5",
    ):
        assert part in rows[1][0]
    assert r"na\"{i}ve M\"{u}ller \v{S}indel\'{a}\v{r} U+65E5U+672C" in rows[1][0]
    assert (
        r"\caption{DEMO: a\_b \& c. F1 of 50\% \textless{}cells\textgreater{}. Table 2 of 2: learning\_rate 0.1.}"
        in text
    )
    assert r"\label{tab:DEMO-f1-2}" in text
    assert r"\textbf{bold}: best; $^{\dagger}$: not distinguishable.\par" in text


def test_the_checker_finds_a_bare_sign_and_a_missing_cell(sheet: Sheet) -> None:
    text = sheet.latex()
    for broken in (text.replace(r"a\_b", "a_b"), text.replace(" & --", ""), text.replace(r"\end{table}", "")):
        with pytest.raises(AssertionError):
            latex_rows(broken)


def test_numbers_stand_right_and_words_left(sheet: Sheet) -> None:
    assert r"\begin{tabular}{lrr}" in sheet.latex()


def test_the_wider_a_table_the_smaller_its_letters(sheet: Sheet) -> None:
    def size(width: int) -> str:
        rows = [["x", "y"], ["a" * width, "1"]]
        (found,) = re.findall(
            r"^\\(small|footnotesize|scriptsize|tiny)$",
            Sheet(**{**vars(sheet), "rows": rows, "bold": frozenset(), "ties": frozenset()}).latex(),
            re.MULTILINE,
        )
        return found

    assert [size(width) for width in (20, 74, 80, 200)] == ["small", "footnotesize", "scriptsize", "tiny"]


def test_a_table_without_rows_is_sound(sheet: Sheet) -> None:
    empty = Sheet(name="x", subject="s", title="t", numbers=pd.DataFrame(), rows=[["device", "time"]])
    assert latex_rows(empty.latex()) == [["device", "time"]]
    assert "| device | time |" in empty.markdown() and "<tbody>\n</tbody>" in empty.html()


def test_every_latin_sign_becomes_ascii_and_only_specials_change() -> None:
    for sign in filter(str.isprintable, map(chr, range(32, 0x250))):
        found = latex_escape(sign)
        assert found.isascii() and found
        assert (found == sign) is (sign.isascii() and sign not in "\\&%$#_{}~^<>|")


# HTML


class Page(HTMLParser):
    """Collects tags, and checks that they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def test_html_is_semantic_escaped_and_links_its_trials(sheet: Sheet) -> None:
    page = Page(sheet.html())
    assert page.cells[:4] == ["class", "macro-F1", "difference", "trials"]
    assert page.cells[4] == NASTY
    assert page.cells[5:7] == ["0.700\xa0±\xa00.010*†", "\N{MINUS SIGN}0.012\xa0±\xa00.003"]
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert scopes == ["col"] * 4 + ["row"] * 3
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"../../trials/{name}/" for name in ("aa", "bb", "cc")]
    assert "<strong>0.800\xa0±\xa00.010</strong>" in sheet.html()
    assert not {"script", "style", "b"} & {tag for tag, _ in page.tags}
    assert ("figure", {"class": "sheet", "id": "DEMO_f1_2"}) in page.tags
    assert sum(attributes.get("class") == "number" for tag, attributes in page.tags if tag == "td") == 6


def test_a_table_without_trials_has_no_column_of_them(sheet: Sheet) -> None:
    assert "trials" not in Page(Sheet(**{**vars(sheet), "trials": []}).html()).cells


# Files


def test_what_is_written(sheet: Sheet, tmp_path: Path) -> None:
    written = sheet.write(tmp_path)
    assert sorted(path.name for path in written) == [f"DEMO_f1_2.{kind}" for kind in ("csv", "html", "md", "tex")]
    assert pd.read_csv(tmp_path / "DEMO_f1_2.csv")["f1"].tolist() == [0.7, 0.8, 0.75]
    assert (tmp_path / "DEMO_f1_2.tex").read_text() == sheet.latex()
    page = (tmp_path / "DEMO_f1_2.html").read_text()
    assert page.startswith("<!doctype html>") and 'href="../../../trials/aa/"' in page
    assert ("title", {}) in Page(page).tags and "data: x_y" in page and "http" not in page


# Numbers


def test_what_is_a_number() -> None:
    numbers = ["0.7", "-", "", "+0.1", "0.703 +-0.01", "0.7 (n=1)", "0.7 [0.6, 0.8] n=3", "7.2 +-0.1 h", "12 s", "3/3"]
    assert all(map(is_number, [*numbers, "1 %", "0.590 +-0.040*#", "-/787/1281", "7.2 h (n=1)"]))
    assert not any(map(is_number, ["cnn", "3/3, 1 failed", "missing", "1e-4 x"]))


def test_only_the_sign_of_a_number_is_a_minus() -> None:
    assert minus("-0.1 [-0.2, +0.3] 95-97 e-5 a-1 -x", "M") == "M0.1 [M0.2, +0.3] 95-97 e-5 a-1 -x"
    assert plus_minus("0.7 +-0.1; +- is half") == "0.7\xa0±\xa00.1; ± is half"
