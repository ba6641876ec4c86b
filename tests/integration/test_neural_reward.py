"""Neural reward models in this process: the same numbers as plain transformers, in batches."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path

import pytest
from tests.reward_models import CENTER, TEMPERATURE, bare_scores, make_neural
from tests.tiny_model import tiny_model, turned

from learnback.models import reward_base
from learnback.models.neural_reward import WHOLE, Bases, SharedBase
from learnback.models.reward import PROBE, Item, RewardModel, RewardModels, describe, load

__all__ = ["tiny_model"]

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("neural-reward")]


WORDS = "the quick brown fox jumps over the lazy dog thanks please"


def an_item(i: int) -> Item:
    answer = " ".join(random.Random(i).choices(WORDS.split(), k=1 + i * 3 % 23))
    return ({"role": "user", "content": f"question {i % 3}"},), answer


ITEMS = [an_item(i) for i in range(17)]


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two reward models on one base."""
    home = tmp_path_factory.mktemp("neural")
    return [make_neural(home / f"reward-{seed}", tiny_model, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def shared(folders: list[Path]) -> tuple[RewardModels, list[RewardModel]]:
    """Both, opened side by side."""
    models = RewardModels()
    return models, [models.open(folder.name, folder) for folder in folders]


def scores(model: RewardModel, items: list[Item]) -> list[float | None]:
    return [scored.score for scored in model.score_batch(items)]


def test_scores_are_those_of_plain_transformers(
    shared: tuple[RewardModels, list[RewardModel]], folders: list[Path], tiny_model: Path
) -> None:
    for model, folder in zip(shared[1], folders, strict=True):
        ours, bare = scores(model, ITEMS), bare_scores(folder, tiny_model, ITEMS)
        assert ours == pytest.approx(bare, abs=1e-4)
        assert len({round(score, 3) for score in bare}) > 10, "they must differ to tell anything"


def test_the_head_is_read_at_the_last_token_also_where_that_is_the_one_for_padding(
    tiny_model: Path, tmp_path: Path
) -> None:
    """As with Llama 3 and Mistral: no token for padding, and a template that ends with eos."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from learnback.retraining.trainers.encoding import Encoded
    from learnback.retraining.trainers.reward_model import score_all

    base = turned(tiny_model, tmp_path / "base", "<|im_end|>", pad_token="<|im_end|>")
    tokenizer = AutoTokenizer.from_pretrained(base)
    chats = [[*prompt, {"role": "assistant", "content": answer}] for prompt, answer in ITEMS]
    ids = [tokenizer.apply_chat_template(chat, return_dict=False) for chat in chats]
    assert {tokens[-1] for tokens in ids} == {tokenizer.pad_token_id}
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(base)
    with torch.no_grad():
        read = [model.model(torch.tensor([tokens])).last_hidden_state[0, -1] for tokens in ids]
        expected = [float(model.score(state)) for state in read]

    trained = score_all(model, [Encoded([], tokens) for tokens in ids], tokenizer.pad_token_id)
    assert trained == pytest.approx(expected, abs=1e-4), "as in training"
    shared = SharedBase(str(base))
    tokens = [found for found in shared.tokenize(ITEMS) if isinstance(found, list)]
    assert shared.logits(WHOLE, tokens) == pytest.approx(expected, abs=1e-4), "as when scoring"


def test_two_models_share_a_base_and_never_mix(
    shared: tuple[RewardModels, list[RewardModel]],
) -> None:
    first, second = shared[1]
    assert first.base is second.base  # type: ignore[attr-defined]
    alone = scores(first, ITEMS), scores(second, ITEMS)
    assert alone[0] != alone[1]
    assert (scores(first, ITEMS), scores(second, ITEMS)) == alone


def test_the_order_of_a_batch_does_not_change_a_score(
    shared: tuple[RewardModels, list[RewardModel]],
) -> None:
    model = shared[1][0]
    shuffled = random.Random(1).sample(range(len(ITEMS)), len(ITEMS))
    again = scores(model, [ITEMS[i] for i in shuffled])
    there = scores(model, ITEMS)
    assert [there[i] for i in shuffled] == again, "to the last digit"


def test_the_size_of_a_batch_does_not_matter(
    shared: tuple[RewardModels, list[RewardModel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shared[1][0]
    whole = scores(model, ITEMS)
    monkeypatch.setattr(model.base, "batch_tokens", 40)  # type: ignore[attr-defined]
    assert scores(model, ITEMS) == pytest.approx(whole, abs=1e-5)


def test_what_it_cannot_read_has_no_score_and_costs_the_others_nothing(
    shared: tuple[RewardModels, list[RewardModel]],
) -> None:
    model = shared[1][0]
    tools = ({"role": "tool", "content": "42"},)
    picture = ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},)
    prompt, answer = ITEMS[0]
    odd = [(prompt, "long " * 300), (tools, "a"), (picture, "a"), (prompt, "torn \ud83d"), ((), "")]
    found = model.score_batch([odd[0], ITEMS[0], *odd[1:]])
    assert [s.score is None for s in found] == [True, False, True, True, True, True]
    assert "tokens" in str(found[0].error)
    assert found[1].score == pytest.approx(scores(model, [(prompt, answer)])[0], abs=1e-5)


def test_parts_of_text_are_read_as_text(shared: tuple[RewardModels, list[RewardModel]]) -> None:
    parts = ({"role": "user", "content": [{"type": "text", "text": "question 0"}]},)
    first, second = scores(shared[1][0], [(parts, "yes"), (ITEMS[0][0], "yes")])
    assert first == second


def test_damaged_weights_are_refused_and_the_others_go_on(
    shared: tuple[RewardModels, list[RewardModel]], folders: list[Path], tmp_path: Path
) -> None:
    models, (first, _) = shared
    before = scores(first, ITEMS[:3])
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folders[0].iterdir():
        content = file.read_bytes()
        torn = file.name == "adapter_model.safetensors"
        (broken / file.name).write_bytes(content[: len(content) // 2] if torn else content)
    with pytest.raises(ValueError, match="broken"):
        models.open("broken", broken)
    assert scores(first, ITEMS[:3]) == before


def test_weights_that_are_no_numbers_are_refused(folders: list[Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    bad = tmp_path / "bad"
    bad.mkdir()
    for file in folders[0].iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    weights = load_file(bad / "adapter_model.safetensors")
    save_file({k: v * float("nan") for k, v in weights.items()}, bad / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="gives no score"):
        load(bad)


def test_a_model_that_says_something_else_here_than_in_training_is_refused(
    folders: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    (said,) = scores(load(folders[0]), [PROBE])
    assert said is not None
    logit = said * TEMPERATURE + CENTER
    load(make_neural(tmp_path / "same", tiny_model, 0, probe=logit))
    with pytest.raises(ValueError, match="in training"):
        load(make_neural(tmp_path / "other", tiny_model, 0, probe=logit + 0.2))


def test_another_base_under_the_same_path_is_refused(folders: list[Path], tmp_path: Path) -> None:
    description = describe(folders[0]).model_copy(update={"base_digest": "0" * 64})
    with pytest.raises(ValueError, match="digest 000000000000"):
        Bases().open(folders[0], description)


def test_a_base_that_lies_elsewhere_here_is_found_by_its_digest(
    folders: list[Path], tiny_model: Path
) -> None:
    description = describe(folders[0]).model_copy(update={"base_model": "/where/it/was/trained"})
    model = Bases().open(folders[0], description, base=str(tiny_model))
    assert model.score_batch(ITEMS[:1])[0].score is not None


def test_a_model_of_whole_weights_scores_too(
    folders: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    merged = PeftModel.from_pretrained(base, folders[0]).merge_and_unload()
    merged.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    (tmp_path / "reward.json").write_bytes((folders[0] / "reward.json").read_bytes())
    expected = scores(load(folders[0]), ITEMS)
    assert scores(load(tmp_path), ITEMS) == pytest.approx(expected, abs=1e-4)


def test_a_base_for_the_engine_has_the_same_weights_and_a_head_of_zeros(
    tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    made = AutoModelForSequenceClassification.from_pretrained(
        reward_base.prepare(tiny_model, tmp_path / "base")
    )
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert made.score.weight.shape == (1, 64)
    assert not made.score.weight.any()
    theirs = base.model.state_dict()
    assert all(weight.equal(theirs[name]) for name, weight in made.model.state_dict().items())


def test_a_model_that_nobody_holds_leaves_memory(folders: list[Path]) -> None:
    models = RewardModels()
    kept = models.open("kept", folders[0])
    models.open("dropped", folders[1])
    gc.collect()
    before = scores(kept, ITEMS[:2])
    assert kept.base.carries == 1  # type: ignore[attr-defined]
    assert scores(kept, ITEMS[:2]) == before


def test_a_base_leaves_memory_with_the_last_model_on_it(folders: list[Path]) -> None:
    models = RewardModels()
    first, second = (models.open(folder.name, folder) for folder in folders)
    base = weakref.ref(first.base)  # type: ignore[attr-defined]
    del first
    gc.collect()
    assert base() is not None
    assert scores(second, ITEMS[:1])[0] is not None
    del second
    gc.collect()
    assert base() is None


def test_without_torch_the_reason_says_what_to_install(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"learnback\[train\].*reward-engine"):
        load(folders[0])
