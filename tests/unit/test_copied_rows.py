"""What PostgreSQL copies out becomes arrays, in whatever pieces it comes, and never wrong ones."""

from __future__ import annotations

import struct

import pytest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.scheduler.adapters.copy_reader import SIGNATURE, CopiedRows, Wide

COLUMNS: dict[str, Wide] = {"who": "int", "at": "time", "watts": "float"}
HEAD = SIGNATURE + struct.pack(">ii", 0, 0)
END = struct.pack(">h", -1)


def row(who: int, at_us: int, watts: float) -> bytes:
    return struct.pack(">hiqiqid", 3, 8, who, 8, at_us, 8, watts)


@pytest.mark.parametrize("piece", [1, 7, 38, 1000])
async def test_rows_come_in_any_pieces(piece: int) -> None:
    sent = HEAD + b"".join(row(n - 2, n * 1_000_000, n / 2) for n in range(50)) + END
    rows = CopiedRows(COLUMNS)
    for start in range(0, len(sent), piece):
        await rows.take(sent[start : start + piece])
    made = rows.made()
    assert made["who"].tolist() == [n - 2 for n in range(50)]
    assert made["watts"].tolist() == [n / 2 for n in range(50)]
    assert made["at"][1] == (946_684_800 + 1) * 1_000_000


async def test_none_at_all() -> None:
    rows = CopiedRows(COLUMNS)
    await rows.take(HEAD + END)
    assert [len(column) for column in rows.made().values()] == [0, 0, 0]


@pytest.mark.parametrize(
    "odd",
    [
        struct.pack(">hiqiqi", 3, 8, 1, 8, 2, -1),  # a null
        struct.pack(">hiqid", 2, 8, 1, 8, 2.0),  # a column less
        struct.pack(">hiqiqif", 3, 8, 1, 8, 2, 4, 1.5),  # a narrow column
    ],
)
async def test_rows_of_another_form_are_refused(odd: bytes) -> None:
    rows = CopiedRows(COLUMNS)
    await rows.take(HEAD + odd + row(1, 2, 3.0) + END)
    with pytest.raises(UnavailableError, match="rows of different formats"):
        rows.made()
    with pytest.raises(UnavailableError, match="in an unknown format"):
        await CopiedRows(COLUMNS).take(b"something else, longer than a header")
