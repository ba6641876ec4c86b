"""Garbage collection never takes what somebody needs: laws over any state of the ledger."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import AT, a_version

from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.ledger.releases import Release
from learnback.ledger.runs import ACTIVE, Run, RunState
from learnback.registry.retention import (
    UNDECIDED,
    Facts,
    collectable,
    needed,
    why_report_stays,
)
from learnback.registry.settings import RetentionSettings
from learnback.registry.store import AliasMove, AliasState

laws = settings(max_examples=60)
NAMES = [f"v{i}" for i in range(8)]
names = st.sampled_from(NAMES)
some_name = st.none() | names
ages = st.integers(0, 60).map(lambda days: AT - timedelta(days=days, minutes=1))
retentions = st.builds(
    RetentionSettings,
    history=st.integers(1, 60).map(lambda days: timedelta(days=days)),
    unused=st.integers(1, 60).map(lambda days: timedelta(days=days)),
    versions=st.integers(1, 4),
)


@st.composite
def versions(draw: Any) -> list[Any]:
    found = []
    for i, name in enumerate(NAMES):
        earlier = st.none() | st.sampled_from(NAMES[:i]) if i else st.none()
        found.append(
            a_version(
                name,
                kind=draw(st.sampled_from(VersionKind)),
                state=draw(st.sampled_from(VersionState)),
                parent=draw(earlier),
                reward_model=draw(earlier),
                artifact=draw(st.sampled_from([None, name])),
                deleted=draw(st.booleans()),
                changed_at=draw(ages),
            )
        )
    return found


@st.composite
def histories(draw: Any) -> list[AliasMove]:
    moves = []
    for alias in Alias:
        previous, times = None, sorted(draw(st.lists(ages, max_size=4)))
        for revision, at in enumerate(times, 1):
            version = draw(some_name)
            moves.append(
                AliasMove(alias, revision, version, previous, 1.0, at, "test", "test", 0.0)
            )
            previous = version
    return sorted(moves, key=lambda m: m.at, reverse=True)


def a_run(name: str | None, **changes: Any) -> Run:
    values = {"id": "run_1", "method": "dpo", "state": ACTIVE[0], "base_version": "base"}
    return Run(**values | {"parent": name, "created_at": AT} | changes)


@st.composite
def ledgers(draw: Any) -> Facts:
    moves = draw(histories())
    last = {alias: [m for m in moves if m.alias is alias] for alias in Alias}
    return Facts(
        at=AT,
        versions=draw(versions()),
        aliases=[AliasState(a, m[0].version, 1.0, m[0].revision) for a, m in last.items() if m],
        moves=moves,
        ways={
            name: Release(version=name, revision=1, ended_at=draw(st.none() | ages))
            for name in draw(st.lists(names, max_size=2))
        },
        runs=draw(st.lists(some_name.map(a_run), max_size=2)),
        loaded=draw(st.dictionaries(names, st.just(["replica-0"]), max_size=3)),
    )


@laws
@given(ledgers(), retentions)
def test_what_answers_or_scores_now_stays(facts: Facts, retention: RetentionSettings) -> None:
    assert not {a.version for a in facts.aliases} & set(collectable(facts, retention))


@laws
@given(ledgers(), retentions)
def test_what_was_served_within_the_retention_stays(
    facts: Facts, retention: RetentionSettings
) -> None:
    """Also what was served at its very beginning: the first move within it left that."""
    taken = set(collectable(facts, retention))
    since = facts.at - retention.history
    for alias in Alias:
        moves = [m for m in facts.moves if m.alias is alias]
        served = {m.version for m in moves if m.at >= since}
        served |= {m.version for m in moves if m.at < since and m is _newest_before(moves, since)}
        assert not served & taken


def _newest_before(moves: list[AliasMove], since: Any) -> AliasMove | None:
    return max((m for m in moves if m.at < since), key=lambda m: m.revision, default=None)


@laws
@given(ledgers(), retentions)
def test_one_can_go_back_so_many_times_however_long_ago_that_was(
    facts: Facts, retention: RetentionSettings
) -> None:
    states = {v.name: v.state for v in facts.versions}
    stable = [m.version for m in facts.moves if m.alias is Alias.STABLE and m.version]
    good = [n for n in dict.fromkeys(stable) if states[n] is VersionState.PROMOTED]
    assert not set(good[: retention.versions]) & set(collectable(facts, retention))


@laws
@given(ledgers(), retentions)
def test_what_is_undecided_running_loaded_or_young_stays(
    facts: Facts, retention: RetentionSettings
) -> None:
    taken = set(collectable(facts, retention))
    undecided = {
        v.name
        for v in facts.versions
        if v.state in UNDECIDED and v.kind is not VersionKind.REWARD_MODEL
    }
    young = {v.name for v in facts.versions if v.changed_at > facts.at - retention.unused}
    on_their_way = {name for name, way in facts.ways.items() if way.ended_at is None}
    for kept in (undecided, young, on_their_way, facts.loaded, {r.parent for r in facts.runs}):
        assert not set(kept) & taken


@laws
@given(ledgers(), retentions)
def test_what_a_kept_version_stands_on_stays(facts: Facts, retention: RetentionSettings) -> None:
    """Of a strategy the whole line: without its adapter it can't be served."""
    taken, kept = set(collectable(facts, retention)), needed(facts, retention)
    for version in facts.versions:
        if version.name in kept and not kept[version.name].endswith("stands on it"):
            assert not {version.parent, version.reward_model} & taken
        if version.name in kept and version.kind is VersionKind.PROMPT:
            assert version.parent not in taken


@laws
@given(ledgers(), retentions)
def test_only_what_has_files_is_taken_and_only_once(
    facts: Facts, retention: RetentionSettings
) -> None:
    by_name = {v.name: v for v in facts.versions}
    for name in collectable(facts, retention):
        assert by_name[name].artifact
        assert not by_name[name].deleted


@laws
@given(ledgers(), retentions, retentions)
def test_keeping_longer_never_takes_more(
    facts: Facts, one: RetentionSettings, other: RetentionSettings
) -> None:
    longer = RetentionSettings(
        history=max(one.history, other.history),
        unused=max(one.unused, other.unused),
        versions=max(one.versions, other.versions),
    )
    assert set(collectable(facts, longer)) <= set(collectable(facts, one))


def test_what_nobody_needs_is_taken() -> None:
    """Without this, a collector that takes nothing would pass every law."""
    old = AT - timedelta(days=90)
    refused = a_version("refused", state=VersionState.REFUSED, artifact="refused", changed_at=old)
    left = a_version("left", state=VersionState.PROMOTED, artifact="left", changed_at=old)
    judge = a_version("judge", kind=VersionKind.REWARD_MODEL, artifact="judge", changed_at=old)
    move = AliasMove(Alias.STABLE, 2, "base", "left", 1.0, old, "test", "test", 0.0)
    facts = Facts(at=AT, versions=[refused, left, judge], moves=[move])
    assert collectable(facts, RetentionSettings()) == ["judge", "left", "refused"]


def a_reported_run(**changes: Any) -> Run:
    old = AT - timedelta(days=90)
    ended = {"state": RunState.DONE, "created_at": old, "finished_at": old}
    return a_run(None, **ended | {"version": "v"} | changes)


def test_a_report_stays_as_long_as_what_its_run_made_and_as_what_nobody_serves() -> None:
    old, retention = AT - timedelta(days=90), RetentionSettings()
    made = a_version("v", artifact="v", changed_at=old)

    def stays(run: Run, *versions: Any) -> str | None:
        return why_report_stays(run, Facts(at=AT, versions=versions), retention)

    assert stays(a_reported_run(), made) == "v came of this run"
    judge = a_version("judge", kind=VersionKind.REWARD_MODEL, artifact="j", changed_at=old)
    both = a_reported_run(progress={"reward_model": "judge"})
    gone = made.model_copy(update={"deleted": True})
    assert stays(both, gone, judge) == "judge came of this run"
    assert stays(both, gone, judge.model_copy(update={"deleted": True})) is None
    assert stays(a_reported_run(), gone.model_copy(update={"changed_at": AT})) is not None
    failed = {"state": RunState.FAILED, "version": None}
    assert stays(a_reported_run(**failed)) is None
    assert stays(a_reported_run(**failed, finished_at=AT)) is not None
    assert stays(a_reported_run(state=RunState.REGISTERING, finished_at=None)) is not None


def test_a_run_keeps_what_its_row_names_anywhere() -> None:
    old = AT - timedelta(days=90)
    judge = a_version("judge", kind=VersionKind.REWARD_MODEL, artifact="j", changed_at=old)
    run = a_run(None, config={"sources": [{"reward_model": "judge"}]})
    assert collectable(Facts(at=AT, versions=[judge]), RetentionSettings()) == ["judge"]
    assert collectable(Facts(at=AT, versions=[judge], runs=[run]), RetentionSettings()) == []
