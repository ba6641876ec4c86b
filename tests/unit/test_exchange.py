"""What an exchange passes on and keeps, piece by piece."""

from __future__ import annotations

import pytest
from starlette.types import Message

from learnback.contracts.models import CompletionEnd
from learnback.inference.exchange import Exchange

PIECES = [b'data: {"id":"x"}\n\n', b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"]
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


class Client:
    """A server's side of one request, whose client can leave."""

    def __init__(self, spec_version: str) -> None:
        self.scope = {"type": "http", "asgi": {"spec_version": spec_version}}
        self.got: list[bytes] = []
        self.gone = False
        self.told = 0
        """Pieces that it had when the exchange was over."""

    async def receive(self) -> Message:
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone:
            raise OSError("gone")
        self.got.append(message.get("body", b""))

    def exchange(self) -> Exchange:
        def on_last(_: Exchange) -> None:
            self.told = len(self.got)

        return Exchange(self.scope, b"{}", [], self.receive, self.send, on_last, "x")


def piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_stream_passes_untouched_and_is_over_before_its_last_piece(
    spec_version: str,
) -> None:
    client = Client(spec_version)
    exchange = client.exchange()
    await exchange.send(START)
    for body in PIECES:
        await exchange.send(piece(body))
    await exchange.send(piece(b"", more=False))
    assert client.got == [b"", *PIECES, b""]
    assert client.told == len(PIECES)  # the start and all but the last
    assert (exchange.answer, exchange.end) == (PIECES, CompletionEnd.COMPLETE)


async def test_what_a_client_that_left_was_not_sent_is_not_kept() -> None:
    client = Client("2.4")
    exchange = client.exchange()
    for message in (START, piece(PIECES[0]), piece(PIECES[1])):
        await exchange.send(message)
    client.gone = True
    with pytest.raises(OSError, match="gone"):
        await exchange.send(piece(PIECES[2]))
    assert (exchange.answer, exchange.end) == (PIECES[:2], CompletionEnd.CLIENT_DISCONNECTED)


async def test_a_server_that_says_by_receive_that_the_client_left_is_heard() -> None:
    client = Client("2.3")
    exchange = client.exchange()
    for message in (START, piece(PIECES[0]), piece(PIECES[1])):
        await exchange.send(message)
    await exchange.receive()  # the request
    await exchange.receive()
    await exchange.send(piece(PIECES[2]))
    assert (exchange.answer, exchange.end) == (PIECES[:2], CompletionEnd.CLIENT_DISCONNECTED)
