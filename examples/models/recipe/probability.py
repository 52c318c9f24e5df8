"""The exact probability of a text: the odds of all lines of choice that lead to it, found by following each until it departs."""

from math import exp, log

from story import tell


class _Strayed(Exception):
    """The story departed from the given text."""


class _Undecided(Exception):
    """The given choices are used up: the next one may be any of these."""

    def __init__(self, odds: list[float]) -> None:
        super().__init__()
        self.odds = odds


class _Follower:
    """Makes given choices, as long as the story agrees with a given text."""

    def __init__(self, target: str, choices: tuple[int, ...]) -> None:
        self.target, self.choices, self.made, self.heard = target, choices, 0, 0

    def choose(self, odds: list[float]) -> int:
        if self.made == len(self.choices):
            raise _Undecided(odds)
        self.made += 1
        return self.choices[self.made - 1]

    def hear(self, text: str) -> None:
        if not self.target.startswith(text, self.heard):
            raise _Strayed
        self.heard += len(text)


def probability(text: str) -> tuple[float, int]:
    """The exact log probability of a story's text and the number of ways to tell it."""
    total, ways = 0.0, 0
    stack: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    while stack:
        choices, log_odds = stack.pop()
        try:
            follower = _Follower(text, choices)
            tell(follower)
            if follower.heard == len(text):
                total, ways = total + exp(log_odds), ways + 1
        except _Strayed:
            pass
        except _Undecided as undecided:
            stack += [((*choices, index), log_odds + log(odds)) for index, odds in enumerate(undecided.odds) if odds > 0]
    return (log(total) if ways else float("-inf")), ways
