"""Every setting that docs/settings.md lists, as a variable."""

from __future__ import annotations

import runpy

from tests.chart.expressions import ROOT

CLASSES = runpy.run_path(str(ROOT / "docs" / "write_settings.py"))["CLASSES"]
VARIABLES = frozenset(
    f"{cls.model_config['env_prefix']}{name.upper()}"
    for cls in CLASSES
    for name in cls.model_fields
)
