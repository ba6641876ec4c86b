"""What was appended to the journal is read once, in order, whoever died in between."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.inference import journal
from learnback.inference.journal import JournalFull, Reader, Writer


def read_all(reader: Reader, *, writer_gone: bool = False) -> list[bytes]:
    found: list[bytes] = []
    while True:
        records, segment, offset = reader.read(writer_gone=writer_gone)
        if not records:
            return found
        found += records
        reader.advance(segment, offset)


@given(st.lists(st.binary(max_size=300), max_size=60), st.integers(1, 400))
def test_all_records_come_out_in_order_whatever_the_segments(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], segment_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "SEGMENT_BYTES", segment_bytes)
        patch.setattr(journal, "READ_BYTES", 64)
        writer = Writer(tmp_path_factory.mktemp("journal"), 1 << 20)
        reader = Reader(writer.folder)
        found = []
        for number, record in enumerate(records):
            writer.append(record)
            if number % 7 == 0:
                found += read_all(reader)
        found += read_all(reader, writer_gone=True)
        assert found == records
        writer.close()
        assert not writer.folder.exists(), "nothing is left behind"


def test_a_reader_that_begins_again_repeats_and_loses_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 1000)
    for letter in (b"a", b"b"):
        writer.append(letter)
    assert read_all(Reader(writer.folder)) == [b"a", b"b"]
    writer.append(b"c")
    assert read_all(Reader(writer.folder)) == [b"a", b"b", b"c"]


def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    one, two = Writer(tmp_path, 1000), Writer(tmp_path, 1000)
    one.append(b"a")
    reader = Reader(two.folder)
    assert reader.adopt() == 0
    one.close()
    assert reader.adopt() == 1
    assert read_all(reader) == [b"a"]


def test_the_journals_of_killed_processes_are_taken_over_in_order(tmp_path: Path) -> None:
    for letters in (b"ab", b"cd"):
        pid = os.fork()
        if pid == 0:
            writer = Writer(tmp_path, 1000)
            for at in range(len(letters)):
                writer.append(letters[at : at + 1])
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
    writer = Writer(tmp_path, 1000)
    reader = Reader(writer.folder)
    assert reader.adopt() == 2
    assert read_all(reader) == [b"a", b"b", b"c", b"d"]
    assert [path.name for path in tmp_path.iterdir()] == [writer.folder.name]


def test_a_journal_takes_a_record_whole_or_not_at_all(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 20)
    writer.append(b"12345")
    with pytest.raises(JournalFull):
        writer.append(b"1234567890123")
    assert read_all(Reader(writer.folder)) == [b"12345"]
    assert writer.waiting_bytes() == 9


def test_room_comes_back_when_a_segment_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 5)  # one record each
    writer = Writer(tmp_path, 12)
    reader = Reader(writer.folder)
    writer.append(b"a")
    writer.append(b"b")
    with pytest.raises(JournalFull):
        writer.append(b"c")
    assert read_all(reader) == [b"a", b"b"]
    writer.append(b"c")
    assert read_all(reader) == [b"c"]


def test_a_record_cut_short_by_a_crash_is_counted(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 1000)
    writer.append(b"whole")
    writer.append(b"torn away")
    (segment,) = writer.folder.glob("*.journal")
    os.truncate(segment, segment.stat().st_size - 3)
    reader = Reader(writer.folder)
    assert read_all(reader, writer_gone=True) == [b"whole"]
    assert reader.torn == 1
