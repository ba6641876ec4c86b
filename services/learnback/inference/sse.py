"""Server-sent events: bytes to the data of each event. Pure, and never raises."""

from __future__ import annotations


class Events:
    """The `data` of events whose bytes come in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that are whole now; comments and other fields are left out."""
        whole = self._rest + piece
        if b"\r" in whole:  # a last CR may be half of a CRLF
            whole = whole.replace(b"\r\n", b"\n")
        *blocks, self._rest = whole.split(b"\n\n")
        return [data for block in blocks if (data := _data(block)) is not None]


def event_data(raw: bytes) -> list[bytes]:
    """The `data` of every event, in order; comments and other fields are left out.

    Lines may end in LF, CRLF or CR. A last event without its blank line counts as well: whether
    it is whole shows when it is parsed.
    """
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return [data for block in raw.split(b"\n\n") if (data := _data(block)) is not None]


def _data(block: bytes) -> bytes | None:
    if block.startswith(b"data: ") and b"\n" not in block:  # what engines send
        return block[6:]
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
