"""Writes the texts of the model folder.

    python generate.py ../world

Calibration, evaluation and cloze stories come from seeds of their own and are checked to be distinct; `training_texts` leaves
all of them out.
"""

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path

from probability import probability
from story import Fact, Sampler, tell

CALIBRATION, EVALUATION, CLOZE = 192, 64, 204
KINDS = ["agreement", "comparison", "house", "meeting", "place", "plural", "pronoun", "recall", "rest", "sum", "toy", "where"]


@dataclass(frozen=True)
class Told:
    """A story with its natural log probability and what could be foretold in it."""

    text: str
    log_probability: float
    facts: list[Fact]


def stories(purpose: str) -> Iterator[Told]:
    """Endless stories of one purpose."""
    for number in count():
        sampler = Sampler(f"{purpose} {number}")
        teller = tell(sampler)
        yield Told(teller.text, sampler.log_probability, teller.facts)


def cloze_stories() -> Iterator[Told]:
    """A story for each cloze item. The kinds of fact take turns, and stories without such a fact are passed over."""
    told = stories("cloze")
    for kind in islice(cycle(KINDS), CLOZE):
        yield next(story for story in told if any(fact.kind == kind and fact.others for fact in story.facts))


def held_out() -> dict[str, list[Told]]:
    """The stories which are not trained on."""
    told = {
        "calibration": list(islice(stories("calibration"), CALIBRATION)),
        "evaluation": list(islice(stories("evaluation"), EVALUATION)),
        "cloze": list(cloze_stories()),
    }
    texts = [story.text for purpose in told.values() for story in purpose]
    if len(set(texts)) != len(texts):
        raise ValueError("Held-out stories repeat: change their seeds")
    return told


def training_texts() -> Iterator[str]:
    """Endless stories to train on; the held-out ones do not occur."""
    kept_back = {story.text for purpose in held_out().values() for story in purpose}
    return (story.text for story in stories("training") if story.text not in kept_back)


def cloze_items(told: list[Told]) -> Iterator[dict[str, object]]:
    """For each story one of its facts, with up to three untrue choices."""
    chance = random.Random("cloze")
    for kind, story in zip(cycle(KINDS), told):
        fact = chance.choice([fact for fact in story.facts if fact.kind == kind and fact.others])
        words = [fact.answer, *chance.sample(fact.others, min(3, len(fact.others)))]
        chance.shuffle(words)
        yield {
            "kind": kind,
            "context": fact.context,
            "choices": [f" {word}" for word in words],
            "answer": words.index(fact.answer),
        }


def write_lines(path: Path, lines: Iterable[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the held-out texts of the small world.")
    parser.add_argument("folder", type=Path, help="where calibration.jsonl, evaluation.jsonl and cloze.jsonl go")
    parser.add_argument("--check", type=int, default=0, metavar="N", help="recompute N probabilities from the text alone")
    parser.add_argument(
        "--long", type=int, default=0, metavar="N", help="write evaluation-N.jsonl, too: the evaluation continued to N stories"
    )
    options = parser.parse_args()

    told = held_out()
    options.folder.mkdir(parents=True, exist_ok=True)
    for purpose in ("calibration", "evaluation"):
        write_lines(options.folder / f"{purpose}.jsonl", ({"text": story.text} for story in told[purpose]))
    write_lines(options.folder / "cloze.jsonl", cloze_items(told["cloze"]))
    if options.long:
        longer = islice(stories("evaluation"), options.long)
        write_lines(options.folder / f"evaluation-{options.long}.jsonl", ({"text": story.text} for story in longer))

    for story in told["evaluation"][: options.check]:
        exact, ways = probability(story.text)
        if ways != 1 or abs(exact - story.log_probability) > 1e-9:
            found = f"found {ways} with {exact}: {story.text}"
            raise ValueError(f"Expected one way to tell with log probability {story.log_probability}, {found}")
    print(f"{sum(map(len, told.values()))} stories written; {options.check} probabilities checked")


if __name__ == "__main__":
    main()
