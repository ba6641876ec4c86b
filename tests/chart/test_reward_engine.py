"""The reward engine: who asks it, what it is told, and where it finds the reward models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.chart.rendering import HelmFailed, Object, by_component, environment, render, render_with

from learnback.cli import main
from learnback.core.settings import CommonSettings
from learnback.reward import engine

KEY = "LEARNBACK_REWARD_ENGINE_KEY"
ASKS = ("reward", "release")


def pod(found: list[Object], process: str = "reward-engine") -> dict[str, Any]:
    spec: dict[str, Any] = by_component(found, "Deployment")[process]["spec"]["template"]["spec"]
    return spec


def container(found: list[Object], process: str = "reward-engine") -> dict[str, Any]:
    (one,) = pod(found, process)["containers"]
    return dict(one)


def told(one: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command line makes of the container's arguments."""
    seen: list[Any] = []
    monkeypatch.setattr(engine, "run", lambda *given: seen.extend(given))
    done = CliRunner().invoke(main, [*one["command"][1:], *one["args"]])
    assert done.exit_code == 0, done.output
    return seen


def test_it_is_off_unless_asked_for() -> None:
    found = render("minimal")
    assert "reward-engine" not in {*by_component(found, "Deployment")}
    for process in ASKS:
        assert "LEARNBACK_REWARD_ENGINE_URL" not in environment(container(found, process))


@pytest.mark.parametrize("process", ASKS)
def test_who_judges_asks_its_service_and_needs_no_torch(
    process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = render("reward-engine")
    service = by_component(found, "Service")["reward-engine"]
    one = container(found, process)
    url = environment(one)["LEARNBACK_REWARD_ENGINE_URL"]
    port = service["spec"]["ports"][0]["port"]
    assert url == f"http://{service['metadata']['name']}:{port}"
    assert one["image"].startswith("learnback:")
    monkeypatch.setenv("LEARNBACK_REWARD_ENGINE_URL", str(url))
    assert CommonSettings().reward_engine_url == url


def test_its_command_line_is_what_the_values_say(monkeypatch: pytest.MonkeyPatch) -> None:
    one = container(render("many-gpus"))
    model, host, port, max_rank, more = told(one, monkeypatch)
    assert (model, host, port, max_rank) == (None, "0.0.0.0", 8010, 32)
    assert more == ("--tensor-parallel-size", "2", "--max-model-len", "8192")
    assert environment(one)["LEARNBACK_MODEL"] == "/models/llama-70b", "the base of inference"
    (there,) = [port["containerPort"] for port in one["ports"]]
    assert there == port


def test_on_gpus_it_is_given_them_and_their_runtime() -> None:
    found = render("many-gpus")
    one = container(found)
    assert "-gpu:" in one["image"]
    for kind in ("requests", "limits"):
        assert one["resources"][kind]["nvidia.com/gpu"] == "2"
    assert pod(found)["runtimeClassName"] == "nvidia"
    assert "-cpu:" in container(render("reward-engine"))["image"]


@pytest.mark.parametrize("scenario_name", ["reward-engine", "many-gpus"])
def test_it_finds_reward_models_where_reward_and_release_put_them(scenario_name: str) -> None:
    found = render(scenario_name)
    reads = {m["mountPath"]: m for m in container(found)["volumeMounts"]}
    home = Path(str(environment(container(found))["LEARNBACK_HOME"]))
    for process, folder in (("reward", "cache/reward"), ("release", "release/judges")):
        path = str(home / folder)
        (writes,) = [m for m in container(found, process)["volumeMounts"] if m["mountPath"] == path]
        assert reads[path] == writes | {"readOnly": True}
        name = writes["name"]
        assert volume(found, process, name) == volume(found, "reward-engine", name)


def volume(found: list[Object], process: str, name: str) -> Any:
    (one,) = [v for v in pod(found, process)["volumes"] if v["name"] == name]
    return one


def test_a_volume_of_one_node_holds_the_three_together_and_nobody_else() -> None:
    found = render_with(
        *("rewardEngine.enabled=true", "artifacts.url=s3://b", "externalDatabase.existingSecret=d")
    )
    held = {"reward", "release", "reward-engine"}
    for name in by_component(found, "Deployment"):
        assert ("affinity" in pod(found, name)) == (name in held), name
    assert "affinity" not in pod(render("many-gpus"))


def test_it_reads_no_ledger_no_stream_and_no_artifact() -> None:
    one = container(render("reward-engine"))
    names = set(environment(one))
    assert not {n for n in names if n.startswith(("LEARNBACK_DATABASE", "LEARNBACK_REDIS"))}
    assert not {m["name"] for m in one["volumeMounts"]} & {"ledger", "artifacts"}
    assert [entry["name"] for entry in one["env"] if "valueFrom" in entry] == [KEY]


def test_it_and_those_who_ask_it_have_the_same_key() -> None:
    def keys(found: list[Object]) -> list[dict[str, Any]]:
        return [
            entry["valueFrom"]["secretKeyRef"]
            for process in ("reward-engine", *ASKS)
            for entry in container(found, process)["env"]
            if entry["name"] == KEY
        ]

    found = render("reward-engine")
    secret = by_component(found, "Secret")["reward-engine"]
    given = {"name": secret["metadata"]["name"], "key": "key"}
    assert keys(found) == [given] * 3
    assert secret["data"]["key"]
    yours = render_with("rewardEngine.existingSecret=mine", scenario="reward-engine")
    assert keys(yours) == [{"name": "mine", "key": "key"}] * 3
    assert "reward-engine" not in by_component(yours, "Secret")


def test_it_is_ready_once_its_model_is_loaded_and_has_as_long_as_inference() -> None:
    one = container(render("reward-engine"))
    for probe in ("startup", "readiness", "liveness"):
        assert one[f"{probe}Probe"]["httpGet"] == {"path": "/health", "port": "http"}
    startup = one["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800


def test_there_is_one_and_its_gpu_is_free_before_the_next_begins() -> None:
    spec = by_component(render("many-gpus"), "Deployment")["reward-engine"]["spec"]
    assert spec["strategy"] == {"type": "Recreate"}
    assert "replicas" not in spec


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["reward.settings.engine_url=http://x"], "set by the chart from rewardEngine"),
        (["reward.settings.engine_key=x"], "engine_key is set by the chart from rewardEngine"),
        (
            ["extraEnv[0].name=LEARNBACK_REWARD_ENGINE_URL", "extraEnv[0].value=http://x"],
            "names an engine of yours",
        ),
        (["rewardEngine.models.accessModes={ReadWriteOncePod}"], "shuts out reward and release"),
        (
            ["rewardEngine.device=gpu", r"rewardEngine.resources.limits.nvidia\.com/gpu=1"],
            "set rewardEngine.gpus",
        ),
        (
            ["artifacts.url=s3://b", "externalDatabase.existingSecret=d"],
            "inference and the reward engine both read it",
        ),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_what_cannot_work_with_it_is_refused(settings: list[str], why: str) -> None:
    with pytest.raises(HelmFailed, match=why):
        render_with(*settings, scenario="reward-engine")
