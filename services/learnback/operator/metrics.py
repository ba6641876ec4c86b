"""Metrics of the operator."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

OBJECTS = Gauge("learnback_operator_objects", "ModelRelease objects at the last look.")
FAILURES = Counter("learnback_operator_failures_total", "Looks that failed.")
ASKED = Counter("learnback_operator_asked_total", "Canaries asked for by objects.")
DECIDED = Counter("learnback_operator_decided_total", "Approvals handed on.", ["answer"])
