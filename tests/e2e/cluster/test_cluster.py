"""What only a cluster can show. README.md of this folder says what was run."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.cluster.kube import RELEASE, Kube, until
from tests.e2e.cluster.load import STOP, load_pod
from tests.previous_chart import previous_chart

pytestmark = [pytest.mark.timeout(7200), pytest.mark.xdist_group("cluster")]

PROCESSES = ("inference", "feedback", "reward", "retraining", "release")


def secret_key(kube: Kube, name: str) -> str:
    coded = kube.get("secret", f"{RELEASE}-api-keys")["data"][name]
    return base64.b64decode(coded).decode()


class Load:
    """Clients inside the cluster that stream and say what they think."""

    def __init__(self, kube: Kube, name: str, seconds: int, workers: int) -> None:
        self.kube, self.name = kube, name
        like = kube.get("deployment", f"{RELEASE}-feedback")
        kube.apply(load_pod(like, name, seconds, workers))
        kube.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")

    def stop(self) -> None:
        """Ask nothing more. They tell whether they were `stopped`, or were done before."""
        self.kube.kubectl("exec", self.name, "--", "touch", STOP, check=False)

    def told(self) -> dict[str, Any]:
        """What they saw, once they are done."""

        def ended() -> str | None:
            phase = str(self.kube.get("pod", self.name)["status"]["phase"])
            return phase if phase in ("Succeeded", "Failed") else None

        phase = until(ended, "the load ends", 1800)
        log = self.kube.kubectl("logs", self.name)
        assert phase == "Succeeded", log
        found: dict[str, Any] = json.loads(log.strip().splitlines()[-1])
        return found


@pytest.fixture
def clean(kube: Kube) -> Iterator[Kube]:
    """The installation; load pods go with the test."""
    yield kube
    kube.kubectl("delete", "pod", "-l", "app=load", "--now", check=False)


def signal(kube: Kube, feedback_id: str) -> dict[str, Any]:
    """What the ledger says of a signal, asked from inside a pod of ours."""
    code = (
        "import httpx,sys; print(httpx.get(sys.argv[1],"
        "headers={'Authorization':'Bearer '+sys.argv[2]}).text)"
    )
    url = f"http://127.0.0.1:8001/v1/feedback/{feedback_id}"
    found: dict[str, Any] = json.loads(
        kube.inside("feedback", "python3", "-c", code, url, secret_key(kube, "check"))
    )
    return found


def test_it_installs_into_a_restricted_namespace(installed: tuple[Kube, str]) -> None:
    kube, said = installed
    assert "would violate PodSecurity" not in said
    for process in PROCESSES:
        pods = kube.pods(process)
        assert pods, process
        for pod in pods:
            conditions = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
            assert conditions["Ready"] == "True", process


def test_helm_test_passes(kube: Kube) -> None:
    kube.helm("test", RELEASE, "--timeout", "10m")


def test_every_version_is_an_object(kube: Kube) -> None:
    found = until(lambda: kube.all("modelreleases"), "the base model has its object", 120)
    stable = [o for o in found if o.get("status", {}).get("track") == "stable"]
    assert [o["status"]["weight"] for o in stable] == ["100%"]


def test_a_rolling_restart_breaks_no_stream(clean: Kube) -> None:
    load = Load(clean, "load-restart", seconds=3600, workers=8)
    clean.kubectl("rollout", "restart", f"deployment/{RELEASE}-inference")
    clean.rolled_out("inference")
    load.stop()
    told = load.told()
    assert told["stopped"], "the rollout took longer than the load"
    assert told["whole"] > 20
    assert (told["broken"], told["refused"]) == (0, 0), told["why"]


def test_killing_valkey_and_reward_loses_nothing(clean: Kube) -> None:
    load = Load(clean, "load-kill", seconds=180, workers=4)
    for component in ("valkey", "reward"):
        selector = f"app.kubernetes.io/component={component}"
        clean.kubectl("delete", "pod", "-l", selector, "--grace-period=0", "--force")
    clean.rolled_out("valkey", kind="statefulset")
    clean.rolled_out("reward")
    told = load.told()
    assert len(told["feedback"]) == told["whole"] > 10

    def drained() -> bool:
        lags = json.loads(clean.inside("feedback", "learnback", "streams", "lag", "--json"))
        return all(not lag["lag"] and not lag["pending"] for lag in lags)

    until(drained, "every stream is read to its end")
    for feedback_id in told["feedback"]:
        assert signal(clean, feedback_id)["status"] not in ("received", "pending_target")
    for stream in ("completions", "feedback", "rewards"):
        dead = clean.inside("feedback", "learnback", "streams", "dead", stream, "--json")
        assert json.loads(dead) == []


def test_an_upgrade_leaves_an_outside_scale_alone(kube: Kube) -> None:
    name = f"{RELEASE}-feedback"
    kube.kubectl("scale", f"deployment/{name}", "--replicas=2")
    kube.rolled_out("feedback")
    kube.upgrade("--set", "podAnnotations.e2e=upgraded")
    assert kube.get("deployment", name)["spec"]["replicas"] == 2
    kube.kubectl("scale", f"deployment/{name}", "--replicas=1")


def test_an_upgrade_keeps_generated_secrets(kube: Kube) -> None:
    names = (f"{RELEASE}-api-keys", f"{RELEASE}-valkey")
    before = [kube.get("secret", name)["data"] for name in names]
    kube.upgrade("--set", "podAnnotations.e2e=again")
    assert [kube.get("secret", name)["data"] for name in names] == before


def test_a_training_job_runs_to_its_end(clean: Kube) -> None:
    assert Load(clean, "load-train", seconds=120, workers=4).told()["feedback"]
    key = f"LEARNBACK_API_KEY={secret_key(clean, 'admin')}"
    ask = ("env", key, "learnback", "train", "--url", "http://127.0.0.1:8003", "--json")
    run = json.loads(clean.inside("retraining", *ask))["id"]
    name = run.replace("_", "-")

    def job_ended() -> set[str] | None:
        found = [j for j in clean.all("jobs") if j["metadata"]["name"] == name]
        conditions = found[0].get("status", {}).get("conditions", []) if found else []
        return {c["type"] for c in conditions if c["status"] == "True"} & {"Complete", "Failed"}

    ended = until(job_ended, "the training Job ends", 5400)
    assert ended == {"Complete"}, clean.kubectl("logs", f"job/{name}", "--tail=50")
    pod = clean.all("pods", f"learnback.dev/run={name}")[0]
    assert pod["spec"]["automountServiceAccountToken"] is False

    def shown() -> list[Any]:
        return [o for o in clean.all("modelreleases") if "-dpo-" in o["spec"]["version"]]

    until(shown, "the new version is an object", 600)


def test_an_upgrade_from_the_version_before_and_back(kube: Kube, tmp_path: Path) -> None:
    """The newest, replaced by the previous chart version, then upgraded and rolled back."""
    named = os.environ.get("LEARNBACK_E2E_PREVIOUS_CHART")
    kube.upgrade(chart=Path(named) if named else previous_chart(tmp_path))
    kube.upgrade()
    kube.helm("test", RELEASE, "--timeout", "10m")
    kube.helm("rollback", RELEASE, "--wait", "--timeout", "40m")
    kube.helm("test", RELEASE, "--timeout", "10m")
