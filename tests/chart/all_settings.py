"""Every setting that docs/settings.md lists, as a variable, and the classes that read them."""

from __future__ import annotations

import runpy

from tests.chart.expressions import ROOT

from learnback.feedback.settings import FeedbackSettings
from learnback.inference.settings import InferenceSettings
from learnback.release.settings import ReleaseSettings
from learnback.retraining.settings import RetrainingSettings
from learnback.reward.settings import RewardSettings

CLASSES = runpy.run_path(str(ROOT / "docs" / "write_settings.py"))["CLASSES"]
VARIABLES = frozenset(
    f"{cls.model_config['env_prefix']}{name.upper()}"
    for cls in CLASSES
    for name in cls.model_fields
)

SETTINGS = {
    "inference": InferenceSettings,
    "feedback": FeedbackSettings,
    "reward": RewardSettings,
    "retraining": RetrainingSettings,
    "release": ReleaseSettings,
}
"""Of the processes of the loop; the operator serves nobody and drains nothing."""
