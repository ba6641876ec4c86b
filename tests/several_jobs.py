"""Training jobs one after the other in one process: imports take longer than they."""

from __future__ import annotations

import sys

from learnback.retraining import job


def main(runs: list[str]) -> int:
    """The first exit status that is not 0, or 0."""
    return next((code for run in runs if (code := job.main([run]))), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
