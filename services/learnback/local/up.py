"""`learnback up`: the platform until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import textwrap

from rich.console import Console

from learnback.local.platform import Plan, Platform, platform, rotate_logs
from learnback.local.show import say


async def up(plan: Plan, console: Console) -> None:
    """Run the platform until SIGINT or SIGTERM, then drain and stop it."""
    rotate_logs(plan.home)
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    serving = asyncio.create_task(_serve(plan, console))
    waiting = asyncio.create_task(interrupted.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not serving.done():
        console.print("Draining and stopping.")
        serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _serve(plan: Plan, console: Console) -> None:
    """The platform until it is cancelled."""
    with console.status("starting") as status:

        def progress(process: str, seconds: float) -> None:
            status.update(f"starting: waiting for {process} ({seconds:.0f} s)")

        async with platform(plan, progress) as running:
            status.stop()
            say(console, greeting(running))
            await asyncio.Event().wait()


def greeting(running: Platform) -> str:
    """What to do next, to be pasted as it stands."""
    urls = running.running.urls
    key = running.api_key or "not-needed"
    lasting = "\n\nThe key ends when Learnback stops; `learnback keys create` makes lasting ones."
    header = f' -H "Authorization: Bearer {key}"' if running.api_key else ""
    listed = "\n".join(f"  {name:<11}{url}" for name, url in urls.items())
    return textwrap.dedent(
        """\
        Learnback serves {model}.

        {listed}

        Ask it:
          curl {inference}/v1/chat/completions{header} -H 'Content-Type: application/json' \\
            -d '{{"model": "learnback", "messages": [{{"role": "user", "content": "Say hello."}}]}}'

        Or in Python (pip install openai):
        from openai import OpenAI
        client = OpenAI(base_url="{inference}/v1", api_key="{key}")
        question = [{{"role": "user", "content": "Say hello."}}]
        print(client.chat.completions.create(model="learnback", messages=question))

        Say what you think of the answer (put its id in):
          curl {feedback}/v1/feedback{header} -H 'Content-Type: application/json' \\
            -d '{{"kind": "thumbs", "completion_id": "chatcmpl-...", "value": "up"}}'

        `learnback status` shows what it learned. Ctrl-C drains and stops it all.{lasting}"""
    ).format(
        model=running.plan.model,
        listed=listed,
        inference=urls["inference"],
        feedback=urls["feedback"],
        header=header,
        key=key,
        lasting=lasting if running.api_key else "",
    )
