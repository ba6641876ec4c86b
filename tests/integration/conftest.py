"""What tests of training share for a whole session: the tiny model, and jobs that start at once."""

from __future__ import annotations

from tests.tiny_model import tiny_model
from tests.warm_jobs import jobs

__all__ = ["jobs", "tiny_model"]
