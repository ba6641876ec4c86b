"""docs/settings.md says what the settings classes say."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_classes_say() -> None:
    page = runpy.run_path(str(DOCS / "write_settings.py"))["page"]()
    written = (DOCS / "settings.md").read_text()
    assert written == page, "run: python docs/write_settings.py"


def test_every_setting_has_a_sentence() -> None:
    page = runpy.run_path(str(DOCS / "write_settings.py"))["page"]()
    assert not [line for line in page.splitlines() if line.endswith("|  |")]
