"""One valid example of each thing, to be changed where a test cares."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from learnback.contracts.messages import ModelTrained, ReleaseChanged
from learnback.contracts.models import Alias, VersionKind
from learnback.core.clock import now
from learnback.models.example_bank import Entry, entry_id
from learnback.registry.store import ModelVersion

AT = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


def a_model_trained(version: str = "tiny-dpo-000000000001", **changes: Any) -> ModelTrained:
    return ModelTrained(
        **{"version": version, "kind": VersionKind.ADAPTER, "run_id": "run_1", "at": AT} | changes
    )


def a_release_changed(revision: int = 1, **changes: Any) -> ReleaseChanged:
    values = {"alias": Alias.STABLE, "version": "tiny-base-0", "revision": revision, "at": AT}
    return ReleaseChanged(**values | changes)


def a_version(name: str, **changes: Any) -> ModelVersion:
    values = {
        "name": name,
        "kind": VersionKind.ADAPTER,
        "base": "tiny",
        "base_digest": "0" * 64,
        "code_version": "0.1.0",
        "created_at": now(),
        "changed_at": now(),
    }
    return ModelVersion(**values | changes)


def an_example(user: str, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "tenant": "default",
        "system_key": "",
        "prompt_key": "",
        "user": user,
        "answer": f"an answer to {user}",
        "quality": 0.5,
    } | changes
    made = entry_id(values["tenant"], values["system_key"], user, values["answer"])
    return Entry(**{"id": made} | values)
