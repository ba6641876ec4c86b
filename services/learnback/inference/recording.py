"""Hands over to the recorder what an exchange was."""

from __future__ import annotations

import logging

from learnback.inference import metrics
from learnback.inference.examples import Applied
from learnback.inference.exchange import Exchange
from learnback.inference.prepare import Prepared
from learnback.inference.served import Served
from learnback.inference.services import Services

log = logging.getLogger(__name__)


def record(services: Services, prepared: Prepared, exchange: Exchange) -> None:
    """Record it. The request is answered; nothing that goes wrong here must change that."""
    try:
        services.recorder.submit(_served(services, prepared, exchange))
    except Exception:
        log.exception("%s was not recorded", prepared.completion_id)
        metrics.DROPPED.labels("bug").inc()


def measure(prepared: Prepared, exchange: Exchange) -> None:
    """Count an answer that a person asked for."""
    endpoint, track = prepared.asked.endpoint, prepared.assignment.track.value
    metrics.ANSWERS.add(
        endpoint, track, exchange.outcome, exchange.duration_s, exchange.first_byte_s
    )
    applied = prepared.applied
    if applied is not None:
        metrics.EXAMPLES.inc(len(applied.examples))
        metrics.EXAMPLES_LEFT_OUT.inc(applied.left_out)
        if applied.skipped is not None:
            metrics.STRATEGY_SKIPPED.labels(applied.skipped.value).inc()


def is_stored(services: Services, prepared: Prepared) -> bool:
    """Whether the answer's content is kept."""
    store = prepared.asked.peeked.store
    return services.settings.store_default if store is None else store


def _served(services: Services, prepared: Prepared, exchange: Exchange) -> Served:
    asked, assignment = prepared.asked, prepared.assignment
    metadata = asked.peeked.metadata or {}
    applied = prepared.applied or Applied()
    return Served(
        id=prepared.completion_id,
        tenant=asked.principal.tenant,
        created_at=exchange.created_at,
        endpoint=asked.endpoint,
        version=assignment.version.name,
        track=assignment.track,
        probability=assignment.probability,
        prompt_strategy=assignment.version.name if applied.changed else None,
        request=asked.body,
        answer=exchange.answer,
        event_stream=exchange.event_stream,
        streamed=bool(asked.peeked.stream),
        stored=is_stored(services, prepared),
        status=exchange.outcome,
        end=exchange.end,
        subject=asked.subject,
        session=metadata.get("session_id"),
        metadata=metadata,
        first_byte_s=exchange.first_byte_s,
        duration_s=exchange.duration_s,
        examples=applied.examples,
        strategy_skipped=applied.skipped,
        pair=prepared.pair,
        place=prepared.place,
    )
