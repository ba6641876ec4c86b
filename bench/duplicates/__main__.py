"""Near-duplicates among made-up pairs: `python -m bench.duplicates --rows 100000`.

Prompts and answers have 20 to 60 words of a vocabulary of 30,000, common ones more often (Zipf).
One row in ten repeats another one, with a word changed in its prompt and one added to its answer.
"""

from __future__ import annotations

import argparse
import random
import resource
import time

from learnback.ledger.prompts import prompt_held_out, prompt_key
from learnback.retraining.datasets.duplicates import distinct, likeness
from learnback.retraining.datasets.rows import PreferenceRow
from learnback.retraining.settings import FilterSettings

VOCABULARY = 30_000


def main() -> None:
    """Make rows, sift them, print seconds of CPU."""
    parser = argparse.ArgumentParser(prog="python -m bench.duplicates", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = _rows(given.rows, random.Random(given.seed))
    above = FilterSettings().max_resemblance
    held_out = {row.prompt_key for row in rows if prompt_held_out(row.prompt_key, 0.1)}
    start = time.process_time()
    like = likeness({row.prompt_key: row.prompt for row in rows}, held_out, above)
    prompts = time.process_time()
    kept, _ = distinct(rows, like.groups, above)
    end = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(rows)} rows, {len(kept)} kept, {len(like.near_held_out)} prompts near held-out "
        f"ones: {prompts - start:.1f} s for the prompts, {end - prompts:.1f} s for the rows, "
        f"peak memory {peak:.0f} MiB with the rows"
    )


def _rows(count: int, chance: random.Random) -> list[PreferenceRow]:
    rows: list[PreferenceRow] = []
    for number in range(count):
        if rows and chance.random() < 0.1:
            old = chance.choice(rows)
            words = old.prompt[0]["content"].split()
            words[chance.randrange(len(words))] = "changed"
            rows.append(_row(number, " ".join(words), f"{old.chosen} indeed", old.rejected))
        else:
            rows.append(_row(number, *(_text(chance) for _ in range(3))))
    return rows


def _text(chance: random.Random) -> str:
    count = chance.randint(20, 60)
    return " ".join(f"w{int(VOCABULARY ** chance.random())}" for _ in range(count))


def _row(number: int, question: str, chosen: str, rejected: str) -> PreferenceRow:
    prompt = ({"role": "user", "content": question},)
    return PreferenceRow(
        feedback_ids=(f"f{number}",),
        prompt=prompt,
        prompt_key=prompt_key(prompt),
        side="train",
        chosen=chosen,
        rejected=rejected,
        margin=1.0,
        votes=1,
        chosen_finished=True,
        rejected_finished=True,
    )


if __name__ == "__main__":
    main()
