"""The ledger's own name, made once: so that two ledgers never share one set of streams."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.ids import new_id
from learnback.ledger.database import insert_new
from learnback.ledger.tables import identity

SUBJECT = "ledger"


async def ledger_id(connection: AsyncConnection) -> str:
    """Random, and the same for ever; a restored backup keeps it."""
    made = insert_new(connection, identity).values(subject=SUBJECT, id=new_id("ledger"))
    await connection.execute(made)
    query = select(identity.c.id).where(identity.c.subject == SUBJECT)
    return str(await connection.scalar(query))
