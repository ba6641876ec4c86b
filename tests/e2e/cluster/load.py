"""A client inside the cluster: streams chats, sends feedback, and counts what broke.

Runs as a pod of the control image, since a port-forward holds on to one pod and would break itself.
"""

from __future__ import annotations

from typing import Any

from tests.e2e.cluster.kube import RELEASE, Object

STOP = "/tmp/stop"
"""A file that ends the load before its time."""
SCRIPT = """
import asyncio, json, os, sys, time, uuid
import httpx

seconds, workers, stop = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
headers = {"Authorization": "Bearer " + os.environ["LEARNBACK_API_KEY"]}
inference, feedback = os.environ["INFERENCE_URL"], os.environ["FEEDBACK_URL"]
told = {"whole": 0, "broken": 0, "refused": 0, "why": [], "feedback": []}

async def lines(answer):
    rest = b""  # aiter_lines also splits at characters that an answer may contain, such as U+2028
    async for part in answer.aiter_bytes():
        *whole, rest = (rest + part).split(b"\\n")
        for line in whole:
            yield line.rstrip(b"\\r")

async def one(http, number):
    body = {"model": "learnback", "stream": True, "max_tokens": 48, "n": 2,
            "messages": [{"role": "user", "content": f"Tell me about the number {number}."}]}
    answer_id, done, failed = None, False, False
    try:
        async with http.stream("POST", inference + "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                told["refused"] += 1
                told["why"].append(f"{answer.status_code}: {(await answer.aread())[:200]!r}")
                return
            async for line in lines(answer):
                if line == b"data: [DONE]":
                    done = True
                elif line.startswith(b"data: "):
                    chunk = json.loads(line[6:])
                    answer_id = chunk.get("id", answer_id)
                    failed = failed or "error" in chunk
    except httpx.ConnectError as error:
        told["refused"] += 1
        told["why"].append(repr(error))
        return
    except httpx.HTTPError as error:
        told["why"].append(repr(error))
    whole = done and not failed
    told["whole" if whole else "broken"] += 1
    if whole:
        await tell(http, answer_id)

async def tell(http, answer_id):
    side = lambda choice: {"completion_id": answer_id, "choice": choice}
    body = {"kind": "preference", "first": side(0), "second": side(1), "preferred": "first"}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    for _ in range(60):
        try:
            answer = await http.post(feedback + "/v1/feedback", json=body, headers=key)
        except httpx.HTTPError:
            answer = None
        if answer is not None and answer.status_code == 202:
            told["feedback"].append(answer.json()["id"])
            return
        await asyncio.sleep(1)

async def main():
    end, number = time.monotonic() + seconds, iter(range(10**9))
    async with httpx.AsyncClient(headers=headers, timeout=120) as http:
        async def work():
            while time.monotonic() < end and not os.path.exists(stop):
                await one(http, next(number))
        await asyncio.gather(*(work() for _ in range(workers)))
    print(json.dumps(told | {"stopped": os.path.exists(stop)}))

asyncio.run(main())
"""


def load_pod(like: Object, name: str, seconds: int, workers: int) -> Object:
    """A pod that loads the platform for so long, or until STOP is there, and prints what it saw;
    with the image of a Deployment of ours, from where that gets it."""
    theirs = like["spec"]["template"]["spec"]
    url = f"http://{RELEASE}"
    secret = {"name": f"{RELEASE}-api-keys", "key": "check"}
    container: dict[str, Any] = {
        "name": "load",
        "image": theirs["containers"][0]["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", SCRIPT, str(seconds), str(workers), STOP],
        "env": [
            {"name": "LEARNBACK_API_KEY", "valueFrom": {"secretKeyRef": secret}},
            {"name": "INFERENCE_URL", "value": f"{url}-inference:8000"},
            {"name": "FEEDBACK_URL", "value": f"{url}-feedback:8001"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "load"}},
        "spec": {
            "restartPolicy": "Never",
            "imagePullSecrets": theirs.get("imagePullSecrets", []),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }
