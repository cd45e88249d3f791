"""Sizes as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planc.errors import UsageError
from planc.units import align_up, format_bytes, format_ns, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 << 30), ("512MB", 512 * 10**6), ("1048576", 1048576), ("60%", 600), ("1.5 KiB", 1536),
        ("12.5%", 125), (" 3 gb ", 3 * 10**9), ("1B", 1), ("8G", 8 * 10**9), ("8 GB", 8 * 10**9), (".5GiB", 1 << 29),
        ("1e9", 10**9), ("1.5e3 MB", 1500 * 10**6), ("1_000_000", 10**6), ("2.GiB", 2 << 30), ("150%", 1500),
    ],
)  # fmt: skip
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text, 1000) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "8 GiBs", "-1", "1e999", "0", "0%", "ten", "5%%", "١٢x", "٥%", ".", "nan", "inf"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="size"):
        parse_size(text, 1000)


@given(st.integers(1, 2**50), st.sampled_from([1, 64, 4096]))
def test_aligning_gives_the_smallest_multiple(size: int, alignment: int) -> None:
    aligned = align_up(size, alignment)
    assert aligned % alignment == 0
    assert aligned - alignment < size <= aligned


def test_numbers_are_written_for_people() -> None:
    sizes = {0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 20: "5.0 MiB", 3 << 40: "3.0 TiB"}
    assert [format_bytes(v) for v in sizes] == list(sizes.values())
    assert [format_ns(v) for v in (5, 1500, 2_500_000, 3 * 10**9)] == ["5 ns", "1.50 µs", "2.50 ms", "3.00 s"]
