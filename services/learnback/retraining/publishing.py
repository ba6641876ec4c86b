"""What a run leaves for others: its weights as safetensors, whole or not at all, and its report."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learnback.retraining.plan import ADAPTER_DIRECTORY, sync


def publish(
    model: Any,
    tokenizer: Any,
    target: Path,
    base_model: str,
    files: Mapping[str, str] | None = None,
) -> str:
    """Save an adapter, or a model with its tokenizer, into ``target``; the weights' SHA-256.

    Files have mode 0644. There is no pickle and nothing that names a path of this machine: an
    adapter's configuration keeps the base model's name, with its lists sorted, so that the same
    weights give the same bytes. ``files`` go beside.
    """
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    kept = {"config.json", "adapter_config.json", "generation_config.json", *(files or ())}
    try:
        model.save_pretrained(partial, safe_serialization=True)
        if target.name == ADAPTER_DIRECTORY:
            _make_portable(partial / "adapter_config.json", base_model)
        else:
            _make_nameless(partial / "config.json")
            kept |= {Path(name).name for name in tokenizer.save_pretrained(partial)}
        for name, content in (files or {}).items():
            (partial / name).write_text(content, encoding="utf-8")
        _tidy(partial, kept)
        digest = weights_digest(partial)
        shutil.rmtree(target, ignore_errors=True)  # of a process killed before result.json
        os.rename(partial, target)
        sync(target.parent)
        return digest
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def weights_digest(folder: Path) -> str:
    """SHA-256 over the safetensors files in a folder, in the order of their names, in hex."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _tidy(folder: Path, kept: set[str]) -> None:
    """Keep weights and what is asked for; readable by all, and on the disk."""
    for path in folder.iterdir():
        weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
        if not weights and path.name not in kept:
            path.unlink()
            continue
        path.chmod(0o644)
        sync(path)
    folder.chmod(0o755)
    sync(folder)


def _make_portable(path: Path, base_model: str) -> None:
    configuration = json.loads(path.read_text())
    configuration["base_model_name_or_path"] = base_model.rstrip("/").rpartition("/")[2]
    for name in ("target_modules", "modules_to_save"):
        if isinstance(configuration.get(name), list):
            configuration[name] = sorted(configuration[name])
    path.write_text(json.dumps(configuration, indent=2, sort_keys=True))


def _make_nameless(path: Path) -> None:
    configuration = json.loads(path.read_text())
    configuration.pop("_name_or_path", None)
    path.write_text(json.dumps(configuration, indent=2, sort_keys=True))
