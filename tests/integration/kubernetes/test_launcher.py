"""Training runs as Jobs of a cluster: made, followed, stopped, disrupted, and found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cluster_jobs import RULES, ended, launching, starts
from tests.conftest import wait_until
from tests.fake_cluster.jobs import JobController
from tests.fake_cluster.state import FakeKubernetes, Object

from learnback.core.errors import Forbidden, Unavailable, Unprocessable
from learnback.core.kubernetes import JOB, Cluster
from learnback.retraining.kubernetes_launcher import RUN_LABEL, KubernetesLauncher
from learnback.retraining.launcher import JobStatus, Vital
from learnback.retraining.plan import ExitCode


async def test_a_run_is_a_job_of_its_name_and_runs_to_its_end(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, folder: Path
) -> None:
    assert await launcher.status(folder) == JobStatus(Vital.ABSENT)
    await launcher.start(folder)
    status = await ended(launcher, folder)
    assert status.exit_code == ExitCode.DONE
    assert status.progress is not None
    assert status.progress.step == 3
    job = kubernetes.one("jobs", "run-01ab")
    assert job["metadata"]["labels"] == {
        "app.kubernetes.io/component": "training",
        RUN_LABEL: "run-01ab",
    }
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == [str(folder)]


async def test_starting_twice_makes_one_job(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, under_way: Path
) -> None:
    await launcher.start(under_way)
    assert len(kubernetes.all("jobs")) == 1
    assert starts(under_way) == 1


async def test_a_rival_that_was_first_is_no_error(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, folder: Path, cluster: Cluster
) -> None:
    class Late(Cluster):
        async def find(self, kind: Any, name: str) -> Object | None:
            return None  # the rival comes after the look and before the create

    await launcher.start(folder)
    late = Late(kubernetes.url, "learnback", token=cluster.token)
    await KubernetesLauncher(late, launcher.template).start(folder)
    await late.close()
    assert len(kubernetes.all("jobs")) == 1


async def test_another_process_finds_the_job_by_its_name(
    launcher: KubernetesLauncher, cluster: Cluster, under_way: Path
) -> None:
    await launcher.leave(under_way, grace_s=0.0)
    second = KubernetesLauncher(cluster, launcher.template)
    status = await second.status(under_way)
    assert (status.vital, status.note) == (Vital.ALIVE, "running on node-1")
    (under_way / "go").touch()
    assert (await ended(second, under_way)).exit_code == ExitCode.DONE
    assert starts(under_way) == 1


async def test_bad_data_ends_the_job_at_once_and_for_good(
    launcher: KubernetesLauncher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "bad_data")
    await launcher.start(folder)
    status = await ended(launcher, folder)
    assert (status.exit_code, status.final) == (ExitCode.BAD_DATA, True)
    assert status.note is not None
    assert status.note.startswith("PodFailurePolicy: ")
    assert starts(folder) == 1


async def test_kubernetes_tries_again_and_what_it_gives_up_is_final(
    launcher: KubernetesLauncher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "crash")
    await launcher.start(folder)
    status = await ended(launcher, folder)
    assert (status.exit_code, status.final) == (ExitCode.INTERNAL, True)
    assert starts(folder) == 2


async def test_disruptions_cost_no_try_and_the_next_pod_goes_on(
    launcher: KubernetesLauncher,
    controller: JobController,
    kubernetes: FakeKubernetes,
    under_way: Path,
) -> None:
    for count in (1, 2, 3):

        def running(wanted: int = count) -> Object | None:
            pods = [
                p for p in kubernetes.all("pods") if p.get("status", {}).get("phase") == "Running"
            ]
            begun = starts(under_way) == wanted
            return pods[0] if pods and begun and (under_way / "step").exists() else None

        pod = await wait_until(running, f"pod {count} trains")
        controller.evict(pod)
    await wait_until(lambda: starts(under_way) == 4, "the fourth pod starts")
    (under_way / "go").touch()
    assert (await ended(launcher, under_way)).exit_code == ExitCode.DONE
    assert starts(under_way) == 4


async def test_stopping_lets_the_job_save_and_takes_it_away(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, under_way: Path
) -> None:
    await launcher.stop(under_way, grace_s=0.0)

    async def absent() -> bool:
        status = await launcher.status(under_way)
        assert status.vital is not Vital.ENDED
        return status.vital is Vital.ABSENT

    await wait_until(absent, "the job is gone")
    assert kubernetes.all("pods") == []
    await launcher.stop(under_way, grace_s=0.0)
    (under_way / "go").touch()
    await launcher.start(under_way)
    assert (await ended(launcher, under_way)).exit_code == ExitCode.DONE
    assert starts(under_way) == 2


async def test_an_ended_job_makes_room_for_the_next_try(
    launcher: KubernetesLauncher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "bad_data")
    await launcher.start(folder)
    await ended(launcher, folder)
    monkeypatch.setenv("QUICK_JOB", "done")
    await launcher.start(folder)

    async def done() -> bool:
        status = await launcher.status(folder)
        if status.vital is Vital.ABSENT:
            await launcher.start(folder)
        return status.exit_code == ExitCode.DONE

    await wait_until(done, "the second job is done")
    assert starts(folder) == 2


async def test_an_api_that_is_away_is_waited_for(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, folder: Path
) -> None:
    kubernetes.away = True
    with pytest.raises(Unavailable):
        await launcher.status(folder)
    nobody = Cluster("http://127.0.0.1:9", "learnback")
    with pytest.raises(Unavailable, match="can't be reached"):
        await nobody.find(JOB, "x")
    await nobody.close()


async def test_a_token_that_changes_is_read_anew(
    launcher: KubernetesLauncher, cluster: Cluster, kubernetes: FakeKubernetes, folder: Path
) -> None:
    kubernetes.roles = {"the next token": RULES}
    with pytest.raises(Unavailable, match="401"):
        await launcher.status(folder)
    assert cluster.token is not None
    cluster.token.write_text("the next token")
    assert (await launcher.status(folder)).vital is Vital.ABSENT


async def test_what_the_role_lacks_and_the_api_refuses_is_said(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, folder: Path
) -> None:
    kubernetes.roles = {"retraining": [{**RULES[0], "verbs": ["get"]}]}
    with pytest.raises(Forbidden, match="cannot create resource 'jobs'"):
        await launcher.start(folder)
    kubernetes.roles = {}
    kubernetes.kinds["batch/v1", "jobs"].admission = lambda _old, _new: "Job is invalid: spec"
    with pytest.raises(Unprocessable, match="Job is invalid: spec"):
        await launcher.start(folder)


def test_a_template_of_another_kind_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    launcher = launching(cluster, tmp_path, {"apiVersion": "v1", "kind": "Pod"})
    with pytest.raises(ValueError, match="must be one of: batch/v1 Job"):
        launcher._kind()


def test_outside_of_a_cluster_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Unavailable, match="not in a Kubernetes pod"):
        Cluster.around_us(tmp_path)
