"""Generated pages keep to the line width of the documentation without losing a word or a figure."""

import re

from climax_hpc.experiments.study.line_width import WIDTH, fit_width

_WIDE = "| T850 [K] | " + " | ".join(f"{lead} h" for lead in range(6, 13)) + " |"
_RULE = "| --- | " + " | ".join(["---"] * 7) + " |"
_ROW = "| ResNet | " + " | ".join(["**0.2994** [0.2859, 0.3103]"] * 7) + " |"


def _words(text: str) -> list[str]:
    return re.sub(r"</?(table|thead|tbody|tr|th|td|b)>|\*\*|\||---", " ", text).split()


def test_wide_table_becomes_html_with_the_same_words() -> None:
    page = fit_width("\n".join(["before", "", _WIDE, _RULE, _ROW, "", "after"]))
    assert max(map(len, page.splitlines())) <= WIDTH
    assert page.count("<th>") == 8
    assert page.count("<b>0.2994</b>") == 7
    assert _words(page) == _words("\n".join(["before", _WIDE, _ROW, "after"]))


def test_narrow_table_and_headings_stay() -> None:
    page = "# " + "long " * 30 + "\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n![figure](images/a.png)"
    assert fit_width(page) == page


def test_prose_and_lists_are_wrapped_by_item() -> None:
    page = fit_width("- " + "one " * 40 + "\n- " + "two " * 40 + "\n\n" + "three " * 40)
    lines = page.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert [line[:5] for line in lines if line.startswith("- ")] == ["- one", "- two"]
    assert page.split().count("three") == 40


def test_cells_are_escaped() -> None:
    page = fit_width(f"{_WIDE}\n{_RULE}\n{_ROW.replace('ResNet', 'A<B')}")
    assert "A&lt;B" in page
