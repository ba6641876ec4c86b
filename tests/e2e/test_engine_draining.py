"""A replica with a real vLLM goes while people stream from it and from another one."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from redis import Redis
from tests.conftest import wait_until
from tests.e2e.engine import STOP_S, Engine, running_engine
from tests.kept_alive import crowd

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import CompletionEnd
from learnback.contracts.streams import COMPLETIONS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

CLIENTS = 8


def complete(engine: Engine) -> set[str]:
    """The ids of its whole answers, as recorded."""
    with Redis.from_url(engine.redis_url) as redis:
        entries = redis.xrange(COMPLETIONS.key)
    served = [CompletionServed.model_validate_json(fields[b"body"]) for _, fields in entries]
    return {one.id for one in served if one.end is CompletionEnd.COMPLETE}


async def test_a_replica_goes_without_a_broken_or_refused_stream(
    engine: Engine, tiny_llama: Path, tmp_path: Path
) -> None:
    with running_engine(tiny_llama, tmp_path, LEARNBACK_LINGER="2") as going:
        async with crowd([going.url, engine.url], CLIENTS) as talk:
            await wait_until(
                lambda: len(talk.whole) > 3 * CLIENTS and talk.busy.get(going.url, 0) > 1,
                "both answer, and one is in the midst of it",
            )
            told = len(talk.whole)
            going.process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(going.process.wait, STOP_S)
            gone = len(talk.whole)
            await wait_until(lambda: len(talk.whole) > gone + 2 * CLIENTS, "people go on")
        assert talk.failed == []
        assert code == 0, going.log.read_text(errors="replace")[-6000:]
        last = [stream for stream in talk.whole[told:] if stream.url == going.url]
        assert any(stream.closed for stream in last), "told to go elsewhere"
        whole = {stream.completion_id for stream in talk.whole}
        await wait_until(lambda: whole <= complete(going) | complete(engine), "all are recorded")
