"""Log lines: readable for people, or one JSON object a line for collectors."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `process`, `logger`, `message`, `exception`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(process: str, *, level: str = "INFO", format: str = "text") -> None:
    """Send every log line of this process to standard error in one shape."""
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        handler.setFormatter(JsonFormatter(process))
    else:
        pattern = f"%(asctime)s {process} %(levelname)s %(name)s: %(message)s"
        handler.setFormatter(logging.Formatter(pattern))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "alembic", "aiosqlite"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
