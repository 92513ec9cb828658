"""Tables fit the page, and figures are read at a glance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyseq.glance.table import WIDTH, amount, share, table, time


@given(st.lists(st.tuples(st.text("ab", max_size=120), st.text("ab", max_size=120), st.integers(0, 10**9).map(str)),
                max_size=4))
def test_a_table_fits_the_page_and_keeps_its_figures(rows: list[tuple[str, str, str]]) -> None:
    lines = table(("layer", "class", "parameters"), rows, left=2).splitlines()
    assert len(lines) == 2 + len(rows) and all(len(line) <= WIDTH for line in lines)
    for line, row in zip(lines[2:], rows, strict=True):
        assert line.endswith(row[-1]) and line.startswith(row[0][:15].rstrip())


@pytest.mark.parametrize(("n", "text"), [
    (0, "-"), (1, "1 B"), (999, "999 B"), (1000, "1.00 kB"), (9_996, "10.0 kB"), (12_345, "12.3 kB"),
    (99_960, "100 kB"), (999_999, "1.00 MB"), (1_234_567, "1.23 MB"), (5e15, "5000 TB"),
])
def test_amounts_have_three_digits(n: float, text: str) -> None:
    assert amount(n, "B") == text


def test_nothing_is_a_dash() -> None:
    assert (time(0), share(0, 5), share(1, 0), amount(0)) == ("-",) * 4
    assert (time(1_234_567_890), share(1, 3)) == ("1,234.57", "33.3 %")
