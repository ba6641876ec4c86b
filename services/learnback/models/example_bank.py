"""The file of a prompt version: well-rated answers, each with whose it is and who said so.

An entry belongs to one tenant, and to the system text under which it was given: it is shown only
there (`retrieval`). One with `shared` is shown to all tenants, since an operator said so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from learnback.core.ids import digest_text

FORMAT = 1
BANK_FILE = "examples.json"
MOST_ENTRIES = 20_000
MOST_BYTES = 64 << 20
"""Of a bank's file: a replica holds it in memory, with an index about as large."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and the answer to it that people liked."""

    id: str
    """Content-addressed: the same words of the same tenant have the same id in every bank."""
    tenant: str
    system_key: str
    """See `system_key`."""
    prompt_key: str
    user: str
    answer: str
    reasoning: str = ""
    """How the model came to the answer, where that was recorded."""
    quality: float
    """What people and the reward model made of it, 0 to 1."""
    completion_id: str | None = None
    """The recorded completion that it stands on."""
    feedback_ids: tuple[str, ...] = ()
    """The signals that speak for it."""
    shared: bool = False


class Bank(msgspec.Struct, frozen=True, kw_only=True):
    """All entries, sorted by id."""

    entries: tuple[Entry, ...]
    format: int = FORMAT


_DECODER = msgspec.json.Decoder(Bank)


def bank_of(entries: Iterable[Entry]) -> Bank:
    """A bank of these entries; each id once."""
    by_id = {entry.id: entry for entry in entries}
    return Bank(entries=tuple(by_id[i] for i in sorted(by_id)))


def entry_id(tenant: str, system_key: str, user: str, answer: str) -> str:
    """The id of an entry."""
    text = "\0".join((tenant, system_key, user, answer))
    return f"ex_{digest_text(text)[:16]}"


def system_key(system: str) -> str:
    """Stands for a system text, white space folded; empty for none."""
    folded = " ".join(system.split())
    if not folded:
        return ""
    return digest_text(folded)[:16]


def fingerprint(bank: Bank) -> str:
    """SHA-256 of what the entries say; ids are left out, so that the same words of other people on
    another machine have the same fingerprint."""
    lines = sorted(
        msgspec.json.encode(
            [e.tenant, e.system_key, e.user, e.answer, e.reasoning, e.quality, e.shared]
        )
        for e in bank.entries
    )
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def without(bank: Bank, gone: Collection[str]) -> Bank:
    """The bank less the entries with these ids."""
    return Bank(entries=tuple(e for e in bank.entries if e.id not in gone))


def save(bank: Bank, folder: Path) -> None:
    """Write the bank's file into `folder`: the same bytes for the same bank."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BANK_FILE).write_bytes(msgspec.json.encode(bank))


def load(folder: Path) -> Bank:
    """Read what `save` wrote. Raises ValueError if it is missing, damaged or of another format."""
    path = folder / BANK_FILE
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES} bytes")
        bank = _DECODER.decode(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ValueError(f"the example bank can't be read: {error}") from error
    if bank.format != FORMAT:
        raise ValueError(f"the example bank has the format {bank.format}, not {FORMAT}")
    if len(bank.entries) > MOST_ENTRIES:
        raise ValueError(f"the example bank has {len(bank.entries)} entries, over {MOST_ENTRIES}")
    if len({entry.id for entry in bank.entries}) != len(bank.entries):
        raise ValueError("the example bank names an entry twice")
    return bank
