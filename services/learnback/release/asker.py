"""As whom a question is asked: a prompt version shows each tenant its own examples, and no others.

What a version makes of a tenant's prompt is seen only with that tenant's examples beside it. To ask
so, the release process's key needs the scope `evaluate`; where it lacks it, a version with examples
of other tenants can't be judged, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from learnback.contracts.models import Scope, VersionKind
from learnback.ledger.evaluation import HeldOutPrompt
from learnback.ledger.keys import KeyRing
from learnback.registry.store import ModelVersion

NAMED = 5
"""Tenants that a reason names."""


def shows_examples(version: ModelVersion | None) -> bool:
    """Whether what it answers hangs on who asks."""
    if version is None or version.kind is not VersionKind.PROMPT:
        return False
    return bool(version.config.get("bank"))


class Asker:
    """The release process as the inference process knows it: by its key."""

    def __init__(self, keys: KeyRing, api_key: str = "") -> None:
        self.keys = keys
        self.api_key = api_key

    async def problem(self, prompts: Sequence[HeldOutPrompt]) -> str | None:
        """Why it can't ask as the tenants of these prompts; None: it can."""
        tenants = {p.tenant for p in prompts if p.tenant is not None}
        if not tenants:
            return None
        header = f"Bearer {self.api_key}" if self.api_key else None
        ourselves = await self.keys.authenticate(header, required=bool(self.api_key))
        others = sorted(tenants - {ourselves.tenant})
        if not others or Scope.EVALUATE in ourselves.scopes:
            return None
        named = ", ".join(others[:NAMED]) + (" and others" if len(others) > NAMED else "")
        return (
            f"it shows each tenant its own examples, and LEARNBACK_RELEASE_API_KEY lacks the scope "
            f"{Scope.EVALUATE.value!r} to ask as {named}"
        )
