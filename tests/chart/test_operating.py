"""What docs/operating.md and the README tell people to type: flags, names and values that exist.

What an API server answers is tried in tests/e2e/cluster; this is what can be told without one.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml
from tests.chart.expressions import ROOT
from tests.chart.rendering import CHART, helm, objects, template
from tests.command_line import parse
from tests.kubernetes_tools import tool

from learnback.cli import main

PAGE = (ROOT / "docs" / "operating.md").read_text()
README = (CHART / "README.md").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", PAGE + README, re.MULTILINE | re.DOTALL)
ONLY_ONE_VERB = {"rollout"}
"""kubectl's verbs that have verbs of their own."""
EVERYTHING = ("operator.enabled=true", "rewardEngine.enabled=true", "training.schedule=@daily")


def commands(program: str) -> list[list[str]]:
    """The words of all lines of code that run a program, up to a pipe or a file."""
    found = []
    for line in "\n".join(BLOCKS).splitlines():
        if f"{program} " not in line or re.match(r"^\s*[#\"'{]", line):
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a string that goes on in the next line
            words = line.split(" -- ")[0].split()
        while program in words:
            words = words[words.index(program) + 1 :]
            end = next((n for n, w in enumerate(words) if w in ("|", ">", "&")), len(words))
            found.append(words[:end])
    return found


def own(words: list[str]) -> list[str]:
    """Without what runs inside a pod."""
    return words[: words.index("--")] if "--" in words else words


@cache
def known_flags(program: str, *verb: str) -> frozenset[str]:
    """Every flag that the program's help has for a verb."""
    said = [[*verb, "--help"], *([["options"]] if program == "kubectl" else [])]
    text = "".join(
        subprocess.run([tool(program), *s], capture_output=True, text=True, check=True).stdout
        for s in said
    )
    return frozenset(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", text))


def flags(words: list[str]) -> set[str]:
    return {w.partition("=")[0] for w in own(words) if w.startswith("-") and len(w) > 1}


def verb(words: list[str]) -> tuple[str, ...]:
    """The first word that is neither a flag nor a namespace, with the second of some."""
    rest = [w for n, w in enumerate(words) if not w.startswith("-") and words[n - 1 : n] != ["-n"]]
    return tuple(rest[: 2 if rest[0] in ONLY_ONE_VERB else 1])


@pytest.mark.parametrize("program", ["helm", "kubectl"])
def test_every_command_has_a_verb_and_flags_that_there_are(program: str) -> None:
    found = [words for words in commands(program) if verb(words) != ("diff",)]  # a plugin
    assert len(found) > 5
    for words in found:
        unknown = flags(words) - known_flags(program, *verb(words))
        assert not unknown, (words, unknown)


def test_an_unknown_flag_would_be_found() -> None:
    assert "--force-conflict" not in known_flags("helm", "upgrade")
    assert "--force-conflicts" in known_flags("helm", "upgrade")


def test_every_command_of_ours_is_one_that_the_command_line_has() -> None:
    found = [w[w.index("--") + 1 :] for w in commands("kubectl") if "--" in w]
    ours = [words[1:] for words in found if words[:1] == ["learnback"]]
    assert len(ours) > 5
    for words in ours:
        parse(words, main)


def test_every_name_is_one_that_the_chart_makes() -> None:
    given = (f"--set={setting}" for setting in EVERYTHING)
    text = helm("template", "learnback", str(CHART), "--namespace", "learnback", *given)
    made = {one["metadata"]["name"] for one in objects(text)}
    written = " ".join(BLOCKS + re.findall(r"`([^`]+)`", PAGE))
    named = set(re.findall(r"(?<![\w.-])learnback-[a-z-]+[a-z]", written))
    assert len(named) > 5
    assert named - made <= {"learnback-postgres", "learnback-s3"}, "of yours, in the README"


def test_every_value_is_one_that_the_chart_has() -> None:
    dotted = re.findall(r"`([a-z]\w+(?:\.\w+)+)", PAGE)
    named = {name for name in dotted if name.partition(".")[0] in SCHEMA["properties"]}
    named |= {
        w.partition("=")[0] for words in commands("helm") for w in words if "." in w and "=" in w
    }
    named = {name for name in named if not name.startswith("-")}
    assert len(named) > 20
    for name in sorted(named):
        found: Any = SCHEMA
        for key in name.split("."):
            free = "properties" not in found
            assert free or key in found["properties"], name
            found = found if free else found["properties"][key]


def blocks_of_values() -> list[Any]:
    """Blocks of code that are values."""
    parsed = []
    for block in BLOCKS:
        try:
            found = yaml.safe_load(block)
        except yaml.YAMLError:
            continue
        parsed += [found] if isinstance(found, dict) else []
    return parsed


def test_values_that_are_shown_are_values_that_the_chart_takes() -> None:
    shown = blocks_of_values()
    assert len(shown) >= 2
    for values in shown:
        template(*(f"--set-json={name}={json.dumps(value)}" for name, value in values.items()))


def test_what_is_said_of_clouds_are_network_policies() -> None:
    rows = re.findall(r"^\| [A-Z]\w+ .*\| `((?:dns|more): .*?)`", PAGE, re.MULTILINE)
    rows += re.findall(r"^\| OpenShift \| `(.*?)`", PAGE, re.MULTILINE)
    assert len(rows) >= 3
    for row in rows:
        jsonschema.validate({"networkPolicy": yaml.safe_load(row)}, SCHEMA)
