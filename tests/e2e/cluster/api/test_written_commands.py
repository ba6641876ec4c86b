"""The commands of docs/operating.md, as they stand there.

By its name this file comes last: it takes the CRD away, which the other files' installation owns.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.chart.rendering import CHART
from tests.conftest import NOT_RUN
from tests.e2e.cluster.kube import CRD, Kube
from tests.kubernetes_tools import tool
from tests.rendered import ROOT

from learnback.ledger.keys import KEY_SHAPE

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("cluster")]
OPERATING = ROOT / "docs" / "operating.md"
OF_NODES = re.compile(
    r"^(helm (test|diff)|kubectl .* (exec|rollout status|scaledobject|wait|apply) )"
)
"""Lines of docs/operating.md that need pods, a plugin, KEDA, or a pipe before them."""


def documented() -> list[str]:
    """The lines of its code blocks that an API server alone can answer, in their order."""
    blocks = re.findall(r"^```\n(.*?)^```", OPERATING.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    wanted = re.compile(r"^(helm|kubectl|KEY=)")
    return [line for line in lines if wanted.match(line) and not OF_NODES.match(line)]


def test_the_commands_of_operating_do_what_they_say(api: Kube, tmp_path: Path) -> None:
    """In one shell and in their order, in a namespace of ours; hooks would need nodes."""
    names = [f"{api.namespace}-{name}" for name in ("learnback", "llama", "qwen")]
    (tmp_path / "values.yaml").write_text("operator: {enabled: true}\n")
    lines = ["set -eux"]
    for line in documented():
        for name in ("learnback", "llama", "qwen"):
            own = f"{api.namespace}-{name}"
            line = re.sub(rf"(-n |--namespace |release-namespace=){name}\b", rf"\1{own}", line)
        hooks = " --no-hooks" if re.match(r"helm (install|upgrade|uninstall)", line) else ""
        lines.append(line.replace("charts/learnback", str(CHART)) + hooks)
    assert len(lines) > 8
    there = api.kubectl("get", "crd", CRD, "--ignore-not-found", "-o", "json")
    if there and api.namespace not in there:
        pytest.skip(f"{NOT_RUN}the commands of operating.md: the CRD here is somebody else's")
    path = f"{tool('helm').parent}:{tool('kubectl').parent}:{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        secret = Kube(names[0]).get("secret", "learnback-api-keys")
        given = re.findall(r"^\+ KEY=(lb_\w+)", done.stderr, re.MULTILINE)
        assert [base64.b64decode(secret["data"]["release"]).decode()] == given
        assert KEY_SHAPE.fullmatch(given[0])
        assert Kube(names[2]).get("deployment", "qwen-learnback-inference")
        owner = api.get("crd", CRD)["metadata"]["annotations"]
        assert owner["meta.helm.sh/release-namespace"] == names[2]
        assert CRD in Kube(names[2]).helm("get", "manifest", "qwen")
    finally:
        api.kubectl("delete", "crd", CRD, check=False)
        for name in names:
            api.kubectl("delete", "namespace", name, "--wait=false", check=False)
