"""The base model as a vLLM pooling engine serves it: with a score head of zeros, for adapters to
replace.

Nothing is copied: the folder links to the base's own files, and holds a config that says
"sequence classification with one label", a file with the head, and an index that names both.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

HEAD_FILE, INDEX_FILE, SINGLE_FILE = (
    "score.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
)
HEAD = "score.weight"
LINKS = {SINGLE_FILE: "base.safetensors"}
"""Files that are linked under another name: where there is a file called `model.safetensors`, no
index is looked at."""


def prepare(base: Path, target: Path) -> Path:
    """Make `target` of the model in `base`, and return it; it appears whole or not at all.

    Raises ValueError if `base` is no causal language model in safetensors.
    """
    if (target / "config.json").is_file():
        return target
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    headed, index = _with_head(config), _index(base)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.is_file() and file.name not in {"config.json", INDEX_FILE}:
            (partial / LINKS.get(file.name, file.name)).symlink_to(file.resolve())
    (partial / "config.json").write_text(json.dumps(headed, indent=2))
    (partial / HEAD_FILE).write_bytes(_zeros(_hidden_size(config)))
    (partial / INDEX_FILE).write_text(json.dumps(index))
    _publish(partial, target)
    return target


def _publish(partial: Path, target: Path) -> None:
    try:
        os.rename(partial, target)
    except OSError:  # another process was first: its folder is the same
        shutil.rmtree(partial, ignore_errors=True)
        if not target.is_dir():
            raise


def _with_head(config: dict[str, Any]) -> dict[str, Any]:
    names = [str(name) for name in config.get("architectures") or ()]
    if not names or not names[0].endswith("ForCausalLM"):
        raise ValueError(f"a causal language model is needed, not {', '.join(names) or 'this'}")
    named = names[0].removesuffix("ForCausalLM") + "ForSequenceClassification"
    labels = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}, "num_labels": 1}
    return config | labels | {"architectures": [named]}


def _hidden_size(config: dict[str, Any]) -> int:
    return int(config.get("hidden_size") or config["text_config"]["hidden_size"])


def _index(base: Path) -> dict[str, Any]:
    """Which tensor is in which file, the head included."""
    if (base / INDEX_FILE).is_file():
        index = dict(json.loads((base / INDEX_FILE).read_text(encoding="utf-8")))
        return index | {"weight_map": index["weight_map"] | {HEAD: HEAD_FILE}}
    if not (base / SINGLE_FILE).is_file():
        raise ValueError(f"there are no weights in safetensors in {base}")
    with (base / SINGLE_FILE).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    names = (name for name in header if name != "__metadata__")
    return {
        "metadata": {},
        "weight_map": dict.fromkeys(names, LINKS[SINGLE_FILE]) | {HEAD: HEAD_FILE},
    }


def _zeros(hidden_size: int) -> bytes:
    """A safetensors file with the head alone: (1, hidden_size) in float32."""
    size = 4 * hidden_size
    tensor = {"dtype": "F32", "shape": [1, hidden_size], "data_offsets": [0, size]}
    header = json.dumps({HEAD: tensor, "__metadata__": {"format": "pt"}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + bytes(size)
