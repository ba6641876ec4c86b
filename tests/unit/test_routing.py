"""Which version answers: sticky, in proportion, and never back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.contracts.models import Alias, Track, VersionKind
from learnback.inference.errors import ModelNotFound, VersionUnavailable
from learnback.inference.routing import Servable, Snapshot, advance, position, route, subject_of
from learnback.registry.store import AliasState, Release

subjects = st.text(max_size=40)
weights = st.floats(0, 1)


def servable(name: str, **changes: object) -> Servable:
    return replace(Servable(name, VersionKind.ADAPTER, name, needs=(name,)), **changes)  # type: ignore[arg-type]


BASE = Servable("base", VersionKind.BASE, "base")
SNAPSHOT = Snapshot(
    public_names=frozenset({"learnback"}),
    versions={"base": BASE, "old": servable("old"), "new": servable("new")},
    stable="old",
    candidate="new",
    weight=0.2,
    ready=frozenset({"old", "new"}),
)


@given(subjects, weights)
def test_the_same_subject_gets_the_same_version(subject: str, weight: float) -> None:
    snapshot = replace(SNAPSHOT, weight=weight)
    assert route(snapshot, "learnback", subject) == route(snapshot, "learnback", subject)


@given(subjects, weights, weights)
def test_raising_the_weight_never_moves_a_subject_back(
    subject: str, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    before = route(replace(SNAPSHOT, weight=low), "learnback", subject)
    after = route(replace(SNAPSHOT, weight=high), "learnback", subject)
    assert not (before.track is Track.CANDIDATE and after.track is Track.STABLE)


@given(subjects, st.floats(0.001, 0.999))
def test_the_probability_is_that_of_the_assignment(subject: str, weight: float) -> None:
    assignment = route(replace(SNAPSHOT, weight=weight), "learnback", subject)
    expected = weight if assignment.track is Track.CANDIDATE else 1 - weight
    assert assignment.probability == expected


@given(st.sampled_from([0.01, 0.05, 0.2, 0.5, 0.9]), st.integers(0, 1000))
def test_the_share_is_as_asked(weight: float, seed: int) -> None:
    count = 4000
    taken = sum(position(f"{seed}-{i}", "new") < weight for i in range(count))
    deviation = (weight * (1 - weight) / count) ** 0.5
    assert abs(taken / count - weight) < 6 * deviation


def test_each_candidate_meets_other_people_first() -> None:
    people = [f"user-{i}" for i in range(4000)]
    first = {p for p in people if position(p, "one") < 0.2}
    second = {p for p in people if position(p, "two") < 0.2}
    assert 0.1 < len(first & second) / len(first) < 0.3, "as by chance"


def test_an_exact_name_pins() -> None:
    assignment = route(SNAPSHOT, "new", "anybody")
    assert (assignment.version.name, assignment.track) == ("new", Track.PINNED)
    assert assignment.probability == 1.0


@given(st.text(max_size=30))
def test_any_other_name_is_unknown(name: str) -> None:
    if name in {"learnback", *SNAPSHOT.versions}:
        return
    with pytest.raises(ModelNotFound):
        route(SNAPSHOT, name, "x")


@given(subjects)
def test_a_candidate_that_is_not_loaded_gets_nobody(subject: str) -> None:
    release = Release(
        AliasState(Alias.STABLE, "old", 1.0, 1), AliasState(Alias.CANDIDATE, "new", 1.0, 1)
    )
    unloaded = advance(replace(SNAPSHOT, ready=frozenset({"old"})), release)
    assignment = route(unloaded, "learnback", subject)
    assert (assignment.version.name, assignment.probability) == ("old", 1.0)
    loaded = advance(SNAPSHOT, release)
    assert route(loaded, "learnback", subject).version.name == "new"


def test_a_stable_version_that_is_not_loaded_leaves_the_one_before() -> None:
    release = Release(
        AliasState(Alias.STABLE, "new", 1.0, 2), AliasState(Alias.CANDIDATE, None, 0.0, 0)
    )
    waiting = advance(replace(SNAPSHOT, ready=frozenset({"old"})), release)
    assert waiting.stable == "old"
    assert advance(SNAPSHOT, release).stable == "new"


def test_going_back_to_the_base_needs_no_loading() -> None:
    release = Release(
        AliasState(Alias.STABLE, "base", 1.0, 3), AliasState(Alias.CANDIDATE, None, 0.0, 0)
    )
    assert advance(replace(SNAPSHOT, ready=frozenset()), release).stable == "base"


def test_a_version_with_a_problem_says_so() -> None:
    broken = replace(SNAPSHOT, versions={"bad": servable("bad", problem="no files")})
    with pytest.raises(VersionUnavailable, match="no files"):
        route(broken, "bad", "x")
    with pytest.raises(VersionUnavailable):
        route(broken, "learnback", "x")


def test_a_subject_is_the_safety_identifier_then_the_user_then_the_key() -> None:
    both = subject_of("t", "safe", "user", "key")
    assert both == subject_of("t", "safe", None, None)
    assert both != subject_of("t", None, "user", "key") != subject_of("t", None, None, "key")
    assert subject_of("t", None, "user", None) != subject_of("u", None, "user", None)
    assert subject_of("t", None, "same", None) != subject_of("t", None, None, "same")
    assert subject_of("t", None, None, None) is None
