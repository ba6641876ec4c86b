"""The example banks of prompt versions, as this replica serves them.

A bank is a copy of what people wrote, so it is not enough that the next one is built without what
was taken back: before a bank is used, and every half minute after that, the ledger is asked, and
examples that were erased, withdrawn or superseded since are shown no more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from learnback.inference import metrics
from learnback.inference.errors import VersionUnavailable
from learnback.inference.examples import Prompter
from learnback.ledger.database import Database
from learnback.ledger.examples import taken_back
from learnback.models import example_bank
from learnback.models.example_bank import Bank
from learnback.models.retrieval import Index
from learnback.models.strategy import Strategy

log = logging.getLogger(__name__)

RECHECK_S = 30.0
"""Between two looks for what was taken back: look-ups by primary key, but thousands of them."""


class Banks:
    """Banks by the name of their version."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._banks: dict[str, tuple[Bank, Prompter]] = {}
        self._checked_at = float("-inf")

    def __contains__(self, name: str) -> bool:
        return name in self._banks

    def prompter(self, name: str, strategy: Strategy) -> Prompter:
        """The strategy of a version with its examples."""
        held = self._banks.get(name)
        return Prompter(strategy) if held is None else held[1]

    async def open(self, name: str, strategy: Strategy, folder: Path) -> None:
        """Have the bank in `folder` ready. Raises VersionUnavailable."""
        try:
            bank = await asyncio.to_thread(example_bank.load, folder)
        except ValueError as error:
            raise VersionUnavailable(
                f"The version {name!r} can't be served: {error}", field="model"
            ) from error
        await self._hold(name, strategy, bank)

    async def recheck(self) -> None:
        """Take out what was taken back since, unless that was looked for a moment ago."""
        if time.monotonic() - self._checked_at < RECHECK_S:
            return
        self._checked_at = time.monotonic()
        for name, (bank, prompter) in list(self._banks.items()):
            await self._hold(name, prompter.strategy, bank)

    def forget(self, name: str) -> None:
        """Nobody uses it any more."""
        self._banks.pop(name, None)

    async def _hold(self, name: str, strategy: Strategy, bank: Bank) -> None:
        """Hold a bank, less what was taken back; as it was if nothing was."""
        async with self.database.read() as connection:
            gone = await taken_back(connection, bank.entries)
        if name in self._banks and not gone:
            return
        if gone:
            metrics.EXAMPLES_TAKEN_BACK.inc(len(gone))
            log.info("%s: %d examples were taken back and are shown no more", name, len(gone))
            bank = example_bank.without(bank, gone)
        index = await asyncio.to_thread(_index, bank, strategy)
        self._banks[name] = (bank, Prompter(strategy, index))


def _index(bank: Bank, strategy: Strategy) -> Index:
    return Index(bank.entries, prefer_reasoning=strategy.strategy == "chain_of_thought")
