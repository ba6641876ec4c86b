"""Answers that were generated for evaluations, kept on disk: the next candidate needs stable's
again, and an evaluation that was killed goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from learnback.core.ids import digest_text
from learnback.release.engine import Answer, ToolCall


class AnswerCache:
    """One file of JSON lines per version; `key` names prompt and sampling parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, version: str) -> dict[str, Answer]:
        """The answers of a version by key; a line torn by a crash is skipped."""
        path = self._path(version)
        if not path.exists():
            return {}
        answers: dict[str, Answer] = {}
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                answers[str(entry["key"])] = _answer(entry)
            except (ValueError, KeyError, TypeError):
                continue
        return answers

    def add(self, version: str, key: str, answer: Answer) -> None:
        """Keep one answer. The first byte is a line end, so that a torn line before ends there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = "\n" + _line(key, answer)
        with self._path(version).open("ab") as file:
            file.write(line.encode())

    def keep_only(self, versions: Iterable[str], keys: Iterable[str]) -> None:
        """Drop all other versions and keys: what was erased from the ledger goes from here too."""
        wanted = set(keys)
        kept = {self._path(version): self.load(version) for version in versions}
        for path in self.folder.glob("*.jsonl") if self.folder.is_dir() else []:
            answers = kept.get(path)
            if answers is None:
                path.unlink(missing_ok=True)
            elif not answers.keys() <= wanted:
                self._rewrite(path, {k: v for k, v in answers.items() if k in wanted})

    def _rewrite(self, path: Path, answers: dict[str, Answer]) -> None:
        lines = [_line(key, answer) for key, answer in answers.items()]
        scratch = path.with_suffix(".new")
        scratch.write_text("\n".join(lines), encoding="utf-8")
        os.replace(scratch, path)

    def _path(self, version: str) -> Path:
        return self.folder / f"{digest_text(version)[:24]}.jsonl"


def _line(key: str, answer: Answer) -> str:
    calls = [[call.name, call.arguments] for call in answer.calls]
    return json.dumps({"key": key, "text": answer.text, "calls": calls, "cut": answer.cut})


def _answer(entry: Mapping[str, Any]) -> Answer:
    calls = tuple(ToolCall(str(name), str(text)) for name, text in entry.get("calls", ()))
    return Answer(str(entry["text"]), calls=calls, cut=bool(entry.get("cut", False)))


def answer_key(prompt_key: str, parameters: dict[str, Any]) -> str:
    """Names a prompt with all else that is in the request."""
    text = prompt_key + json.dumps(parameters, sort_keys=True)
    return digest_text(text)
