"""vLLM asks here for an adapter that it does not know: the registry's, verified, or none.

`register` is an entry point of `vllm.general_plugins`, which every process of every vLLM on this
machine runs, so it does nothing unless `learnback inference` started that vLLM.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

NAME = "learnback"
BASE_DIGEST = "LEARNBACK_SERVED_BASE_DIGEST"
"""Set by `serve` for the processes of the engine; its presence makes our plugin act at all."""


def register() -> None:
    """Register our resolver with vLLM, and mend its CPU backend. Safe to repeat."""
    digest = os.environ.get(BASE_DIGEST)
    if not digest:
        return
    from vllm.lora.resolver import LoRAResolverRegistry

    from learnback.inference.mending import mend

    mend()
    if NAME not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver(NAME, _resolver(digest))


def _resolver(digest: str) -> Any:
    from vllm.lora.resolver import LoRAResolver

    class RegistryResolver(LoRAResolver):  # type: ignore[misc]
        """Looks a name up in the registry."""

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
            """The adapter with its verified files; None, with the reason in the log, otherwise."""
            return await resolve(digest, lora_name)

    return RegistryResolver()


async def resolve(base_digest: str, name: str) -> LoRARequest | None:
    """The adapter `name` for the base with `base_digest`.

    Opens the ledger each time: this runs once for an adapter in the life of an engine.
    """
    import logging

    from vllm.lora.request import LoRARequest

    from learnback.core.errors import LearnbackError
    from learnback.core.settings import CommonSettings
    from learnback.inference.library import fetch, read_adapter
    from learnback.ledger.database import Database
    from learnback.registry.artifacts import ArtifactStore

    common = CommonSettings()
    database = Database(common.ledger_url)
    try:
        async with database.read() as connection:
            artifact = await read_adapter(connection, name, base_digest)
        if artifact is None:
            return None
        folder = await fetch(
            ArtifactStore(common.artifact_root), artifact, common.home / "cache" / "adapters"
        )
    except LearnbackError as error:
        logging.getLogger(__name__).error("%s", error)
        return None
    finally:
        await database.close()
    return LoRARequest(lora_name=name, lora_int_id=1, lora_path=str(folder.absolute()))
