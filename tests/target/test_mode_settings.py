"""The table of mode pages, cell by cell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.target.mode_settings import BY_KEY, DEFAULT, ROWS, ModePageRow, ModeSettings, from_kept

# key, default and changeable as bytes, PS 0
BY_HAND = {
    (0x08, 0x00): ("08 12 04" + "00" * 17, "08 12 04" + "00" * 17),
    (0x0A, 0x00): ("0a 0a 02 10 00 40" + "00" * 6, "0a 0a 04 00 38 40" + "00" * 6),
    (0x0A, 0x01): ("4a 01 00 1c 07 00 00" + "00" * 25, "4a 01 00 1c 02 00 ff" + "00" * 25),
    (0x1C, 0x00): ("1c 0a 08" + "00" * 9, "1c 0a" + "00" * 10),
}
EACH_ROW = pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row.key[0]:02X}-{row.key[1]:02X}"
)


def test_table_has_exactly_the_pages_written_down_by_hand_in_ascending_order() -> None:
    assert [row.key for row in ROWS] == sorted(BY_KEY)
    assert set(BY_HAND) <= set(BY_KEY)


@EACH_ROW
def test_row_is_as_written_down_by_hand(row: ModePageRow) -> None:
    if row.key in BY_HAND:
        default, changeable = BY_HAND[row.key]
        assert (row.default, row.changeable) == (bytes.fromhex(default), bytes.fromhex(changeable))


@EACH_ROW
def test_default_is_a_page_that_a_host_may_send_as_it_is(row: ModePageRow) -> None:
    assert len(row.default) == len(row.changeable) == row.layout.length
    assert row.accept(row.layout.unpack(row.default)) == {}
    assert not row.default[0] & 0x80
    start = 4 if row.key[1] else 2
    assert row.changeable[:start] == row.default[:start]


@EACH_ROW
def test_changed_settings_differ_in_that_page_only(row: ModePageRow) -> None:
    page = bytes(a ^ b for a, b in zip(row.default, bytes(4) + row.changeable[4:], strict=True))
    changed = DEFAULT.changed(page)
    others = {key: value for key, value in changed.pages.items() if key != row.key}
    assert changed.pages[row.key] == page
    assert others == {key: value for key, value in DEFAULT.pages.items() if key != row.key}
    assert list(changed.pages) == list(DEFAULT.pages)
    assert (changed == DEFAULT) is (page == row.default)


def test_page_without_a_row_is_no_setting() -> None:
    with pytest.raises(ValueError, match="none of this release"):
        ModeSettings([bytes((0x19, 2, 0, 0))])


@given(st.lists(st.binary(min_size=2, max_size=40)))
def test_kept_pages_of_whatever_origin_give_settings(pages: list[bytes]) -> None:
    settings = from_kept(pages)
    assert list(settings.pages) == list(DEFAULT.pages)
