"""A story is a program that makes random choices and speaks as it goes.

Each choice has known odds, so the probability of a story is the product of the odds of what was chosen. `Sampler` makes the
choices by chance; `probability` in probability.py finds the exact probability of a given text.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import log
from typing import Protocol

from words import (AGES, ANIMALS, BOYS, COLOURS, DUSKS, GIRLS, HOMES, HOURS, MOODS, OPENINGS, OWNED, PACES, PLACES, RELATIONS,
                   STARTS, THINGS, TOYS, TRAITS, VISITED, WEATHER, Place, Thing)

MOST = 12  # nobody ever owns more of one thing
FEWEST_EVENTS, MOST_EVENTS = 4, 7
STOP = 0.35  # odds of the evening coming after each event from the fourth on


class Chooser(Protocol):
    """Picks an index, given normalised odds; is told each sentence as it is spoken."""

    def choose(self, odds: list[float]) -> int: ...

    def hear(self, text: str) -> None: ...


class Sampler:
    """Chooses by chance and adds up the log probability of what it chose."""

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(seed)
        self.log_probability = 0.0
        self.text = ""

    def choose(self, odds: list[float]) -> int:
        index = self.random.choices(range(len(odds)), odds)[0]
        self.log_probability += log(odds[index])
        return index

    def hear(self, text: str) -> None:
        self.text += text


@dataclass(frozen=True)
class Fact:
    """A place in a story where only one continuation is true: the text before it, the true one, and untrue ones."""

    kind: str
    context: str
    answer: str
    others: tuple[str, ...]


@dataclass
class Person:
    name: str
    girl: bool
    place: Place
    stock: dict[str, int] = field(default_factory=dict)

    @property
    def she(self) -> str:
        return "she" if self.girl else "he"

    @property
    def her(self) -> str:
        return "her" if self.girl else "his"


@dataclass
class Toy:
    """The toy of the story lies at a place or belongs to a person."""

    name: str
    where: Place | Person


class Teller:
    """The state of one story: the people, the toy, who was spoken of last; and the means to choose and to speak."""

    hero: Person
    friend: Person
    relation: str
    house: str
    toy: Toy

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser
        self.text = ""
        self.last: Person | None = None
        self.facts: list[Fact] = []

    def pick(self, weights: dict[str, float]) -> str:
        """One of the words, by weight. A choice of one is no choice."""
        words = list(weights)
        if len(words) == 1:
            return words[0]
        total = sum(weights.values())
        return words[self.chooser.choose([weight / total for weight in weights.values()])]

    def number(self, low: int, high: int) -> int:
        """A number from low to high, small ones likelier."""
        return int(self.pick({str(n): 1 / (n - low + 6) for n in range(low, high + 1)}))

    def say(self, text: str) -> None:
        """Speaks on, after a space."""
        if not text:
            return
        spoken = text if not self.text else " " + text
        self.text += spoken
        self.chooser.hear(spoken)

    def fact(self, kind: str, before: str, answer: str, others: list[str], after: str) -> None:
        """Says `before answer` and adds `after`; notes that the answer could be foretold."""
        self.say(before)
        wrong = tuple(dict.fromkeys(other for other in others if other != answer))
        self.facts.append(Fact(kind, self.text, answer, wrong))
        self.say(answer + after)

    def other(self, person: Person) -> Person:
        return self.friend if person is self.hero else self.hero

    def subject(self, person: Person) -> str:
        """The person at the head of a sentence: a pronoun is possible when the last sentence was theirs."""
        start = self.pick(STARTS)
        pronoun = self.last is person and self.pick({"pronoun": 3, "name": 2}) == "pronoun"
        self.last = person
        if pronoun:
            return f"{start} {person.she}" if start else person.she.capitalize()
        return f"{start} {person.name}" if start else person.name

    def mention(self, person: Person) -> str:
        """The person inside a sentence about the other one."""
        if person is self.friend and self.pick({"name": 3, "relation": 1}) == "relation":
            return f"{self.hero.her} {self.relation}"
        return person.name

    def people(self) -> tuple[Person, Person]:
        return self.hero, self.friend

    def someone(self, able: list[Person]) -> Person:
        """One of the people who can act; the hero twice as often."""
        return self.hero if self.pick({p.name: 2 if p is self.hero else 1 for p in able}) == self.hero.name else self.friend


def evenly(words: Iterable[str]) -> dict[str, float]:
    return dict.fromkeys(words, 1.0)


def counts_near(count: int) -> list[str]:
    """Counts that somebody who miscounts might say instead."""
    return [str(n) for n in (count - 1, count + 1, count + 2) if n >= 0]


def places_like(place: Place) -> list[str]:
    """Places which take the same preposition, so that it does not give the answer away."""
    return [name for name, other in PLACES.items() if other.preposition == place.preposition]


def amount(count: int, thing: Thing) -> str:
    return f"{count} {thing.named(count)}"


# --- The beginning ---------------------------------------------------------------------------------------------------


def begin(t: Teller) -> str:
    """Introduces hero, friend and toy; returns the kind of event which the hero is given to."""
    opening, trait = t.pick(OPENINGS), t.pick(evenly(TRAITS))
    girl = t.pick({"girl": 1, "boy": 1}) == "girl"
    t.say(f"{opening} a {t.pick(AGES)}, {trait} {'girl' if girl else 'boy'} named")
    name = t.pick(GIRLS if girl else BOYS)
    t.say(f"{name}.")
    hero = t.hero = t.last = Person(name, girl, PLACES["garden"])

    t.fact("pronoun", "", hero.she.capitalize(), ["She", "He"], " lived in a")
    t.house = t.pick(COLOURS)
    t.say(f"{t.house} house {t.pick(HOMES)}")
    relation = t.relation = t.pick(RELATIONS)
    girl = relation == "sister" or (relation != "brother" and t.pick({"girl": 1, "boy": 1}) == "girl")
    names = {name: weight for name, weight in (GIRLS if girl else BOYS).items() if name != hero.name}
    t.say(f"with {hero.her} {relation}")
    friend = t.friend = Person(t.pick(names), girl, PLACES["garden"])
    t.say(f"{friend.name}.")

    for person in t.people():
        thing = THINGS[t.pick(OWNED)]
        person.stock[thing.one] = t.number(2, 9)
        t.say(f"{person.name} had {amount(person.stock[thing.one], thing)}{' and' if person is hero else '.'}")

    weather = t.pick(evenly(WEATHER))
    hour, place = t.pick(HOURS), PLACES[t.pick(VISITED)]
    hero.place = place
    if t.pick({"together": 2, "alone": 3}) == "together":
        friend.place = place
        t.say(f"{hour} they went to the {place.name}.")
    else:
        friend.place = PLACES[t.pick({name: weight for name, weight in VISITED.items() if name != place.name})]
        t.say(f"{hour} {hero.name} went to the {place.name} and {friend.name} went to the {friend.place.name}.")

    t.say(f"It was {weather} and {t.pick(WEATHER[weather])}.")
    toy = t.pick(evenly(TOYS))
    colour = t.pick(TOYS[toy])
    t.toy = Toy(f"{colour} {toy}", hero.place if hero.place is friend.place else t.someone([hero, friend]).place)
    t.say(f"There was a {t.toy.name} {t.toy.where.at}.")
    t.last = None
    return TRAITS[trait]


# --- Events: who can do it, and how it is told -----------------------------------------------------------------------


def go(t: Teller, person: Person) -> None:
    """A person moves: to the other one, if apart, or to a new place."""
    away = {name: weight for name, weight in VISITED.items() if name != person.place.name}
    other = t.other(person)
    if other.place is not person.place:
        away[other.place.name] += sum(away.values())
    subject = t.subject(person)
    pace = t.pick(PACES)
    t.say(f"{subject} {t.pick({'went': 3, 'walked': 3, 'ran': 2})} {pace + ' ' if pace else ''}to the")
    person.place = PLACES[t.pick(away)]
    if other.place is person.place:
        t.fact("meeting", f"{person.place.name} and met", other.name, [*GIRLS, *BOYS], ".")
    else:
        t.say(f"{person.place.name}.")


def room(person: Person) -> dict[str, float]:
    """What the person can find where they are without owning more than MOST of it."""
    return {one: weight for one, weight in person.place.things.items() if person.stock.get(one, 0) < MOST}


def find(t: Teller, person: Person) -> None:
    thing = THINGS[t.pick(room(person))]
    had = person.stock.get(thing.one, 0)
    found = t.number(1, min(5, MOST - had))
    person.stock[thing.one] = had + found
    t.say(f"{t.subject(person)} found")
    t.fact("plural", f"{found} {t.pick(thing.looks)}", thing.named(found), [thing.one, thing.many], "")
    t.fact("place", person.place.preposition + " the", person.place.name, places_like(person.place), "." if not had else "")
    if had:
        t.fact("sum", "and now had", str(had + found), counts_near(had + found), ".")


def givable(person: Person) -> dict[str, float]:
    return {one: 1.0 for one, count in person.stock.items() if count > 0}


def receivable(t: Teller, person: Person) -> dict[str, float]:
    other = t.other(person)
    return {one: 1.0 for one in givable(person) if other.stock.get(one, 0) < MOST}


def give(t: Teller, person: Person) -> None:
    other = t.other(person)
    thing = THINGS[t.pick(receivable(t, person))]
    had, others = person.stock[thing.one], other.stock.get(thing.one, 0)
    given = t.number(1, min(had, MOST - others))
    person.stock[thing.one], other.stock[thing.one] = had - given, others + given
    t.say(f"{t.subject(person)} gave {amount(given, thing)} to {t.mention(other)}.")
    t.fact("sum", f"Now {other.name} had", str(others + given), counts_near(others + given), f" and {person.name} had")
    t.fact("rest", "", str(had - given), counts_near(had - given), ".")
    t.last = None


def lose(t: Teller, person: Person) -> None:
    thing = THINGS[t.pick(givable(person))]
    had = person.stock[thing.one]
    lost = t.number(1, min(had, 5))
    person.stock[thing.one] = had - lost
    verb = t.pick({"ate": 6, "lost": 1} if thing.edible else {"lost": 3, "sold": 2, "dropped": 2})
    t.say(f"{t.subject(person)} {verb} {amount(lost, thing)}")
    t.fact("rest", "and had", str(had - lost), counts_near(had - lost), " left.")


def count(t: Teller, person: Person) -> None:
    """Counts aloud, up to the number owned."""
    thing = THINGS[t.pick({one: 1.0 for one, n in person.stock.items() if 2 <= n <= 8})]
    owned = person.stock[thing.one]
    t.say(f"{t.subject(person)} counted {person.her} {thing.many}:")
    for n in range(1, owned + 1):
        t.say(f"{n}{',' if n < owned else '.'}")


def comparable(t: Teller) -> dict[str, float]:
    """What at least one of the two has; rather what both have."""
    mine, theirs = givable(t.hero), givable(t.friend)
    return {one: 3.0 if one in mine and one in theirs else 1.0 for one in {**mine, **theirs}}


def compare(t: Teller, person: Person) -> None:
    """Tells which of the two has more of something."""
    other = t.other(person)
    thing = THINGS[t.pick(comparable(t))]
    mine, theirs = person.stock.get(thing.one, 0), other.stock.get(thing.one, 0)
    word = "more" if mine > theirs else "fewer" if mine < theirs else "just as many"
    t.say(f"{t.subject(person)} and {t.mention(other)} compared their {thing.many}:")
    t.fact("comparison", f"{person.name} had", word, ["more", "fewer", "just as many"], ".")
    t.last = None


def animals(t: Teller, person: Person) -> None:
    subject = t.subject(person)
    t.say(f"{subject} saw")
    animal = ANIMALS[t.pick(person.place.animals)]
    seen = int(t.pick({"1": 4, "2": 3, "3": 2, "4": 1}))
    t.say(f"a {animal.one}" if seen == 1 else f"{seen} {animal.many}")
    t.fact("place", person.place.preposition + " the", person.place.name, places_like(person.place), ".")
    t.fact("agreement", "It" if seen == 1 else "They", "was" if seen == 1 else "were", ["was", "were"], "")
    t.say(f"{t.pick(animal.manners)}.")
    t.last = None


def feel(t: Teller, person: Person) -> None:
    mood = t.pick(evenly(MOODS))
    t.say(f"{t.subject(person)} was {mood} and {t.pick(MOODS[mood])}.")


def like(t: Teller, person: Person) -> None:
    """A taste, and the other one's answer if they are together."""
    other = t.other(person)
    t.say(f"{t.subject(person)} said, \"I like")
    liked = t.pick(evenly(ANIMALS))
    t.say(f"{ANIMALS[liked].many} {t.pick({'more than': 1, 'and': 1})}")
    also = t.pick(evenly(one for one in ANIMALS if one != liked))
    t.say(f"{ANIMALS[also].many}.\"")
    if other.place is person.place:
        t.say(f"{other.name} {t.pick({'laughed': 3, 'smiled': 2, 'agreed': 2, 'said nothing': 1})}.")
        t.last = other


def take(t: Teller, person: Person) -> None:
    t.toy.where = person
    colour, toy = t.toy.name.split()
    verb = t.pick({"took": 3, "picked up": 2})
    t.fact("toy", f"{t.subject(person)} {verb} the", colour, [colour for odds in TOYS.values() for colour in odds], f" {toy}.")


def put(t: Teller, person: Person) -> None:
    t.toy.where = person.place
    t.say(f"{t.subject(person)} left the {t.toy.name}")
    t.fact("place", person.place.preposition + " the", person.place.name, places_like(person.place), ".")


def hand_over(t: Teller, person: Person) -> None:
    t.toy.where = t.other(person)
    colour, toy = t.toy.name.split()
    t.fact("toy", f"{t.subject(person)} gave the", colour, [colour for odds in TOYS.values() for colour in odds], f" {toy}")
    t.say(f"to {t.mention(t.other(person))}.")


def ask_where(t: Teller, person: Person) -> None:
    """Asks the other one for the toy, unless the asker has it."""
    other, where = t.other(person), t.toy.where
    t.say(f"{t.subject(person)} asked, \"Where is the {t.toy.name}?\" {other.name} said,")
    if where is other:
        t.fact("toy", "", "\"I", ["\"I", "\"It"], " have it.\"")
    else:
        t.fact("toy", "", "\"It", ["\"I", "\"It"], "")
        t.fact("where", f"is {where.preposition} the", where.name, places_like(where), ".\"")
    t.last = None


def ask_how_many(t: Teller, person: Person) -> None:
    other = t.other(person)
    thing = THINGS[t.pick(givable(other))]
    owned = other.stock[thing.one]
    t.say(f"{t.subject(person)} asked {other.name}, \"How many {thing.many} do you have?\"")
    t.say(f"{other.she.capitalize()} said, \"I have")
    t.fact("recall", "", str(owned), counts_near(owned), f" {thing.named(owned)}.\"")
    t.last = None


def who_can(t: Teller) -> Iterator[tuple[str, float, list[Person]]]:
    """The events possible now: name, weight, who can do it."""
    people = [*t.people()]
    near = t.hero.place is t.friend.place
    holder = t.toy.where
    yield "go", 3, people
    yield "find", 4, [p for p in people if room(p)]
    yield "give", 5, [p for p in people if near and receivable(t, p)]
    yield "lose", 3, [p for p in people if givable(p)]
    yield "count", 1, [p for p in people if any(2 <= n <= 8 for n in p.stock.values())]
    yield "compare", 2, people if near and comparable(t) else []
    yield "animals", 2, people
    yield "feel", 2, people
    yield "like", 2, people
    yield "take", 3, [p for p in people if holder is p.place]
    yield "put", 1, [p for p in people if holder is p]
    yield "hand_over", 2, [p for p in people if near and holder is p]
    yield "ask_where", 1.5, [p for p in people if near and holder is not p]
    yield "ask_how_many", 1.5, [p for p in people if near and givable(t.other(p))]


TELL = {"go": go, "find": find, "give": give, "lose": lose, "count": count, "compare": compare, "animals": animals, "feel": feel,
        "like": like, "take": take, "put": put, "hand_over": hand_over, "ask_where": ask_where, "ask_how_many": ask_how_many}


# --- The end ---------------------------------------------------------------------------------------------------------


def end(t: Teller) -> None:
    """Everybody goes home with what they own: the test of the model's memory."""
    for person in t.people():
        t.say(f"{t.pick(DUSKS) + ' ' if person is t.hero else ''}{person.name} went home with")
        owned = [(THINGS[one], n) for one, n in person.stock.items() if n > 0]
        parts = len(owned) + (t.toy.where is person)
        if not parts:
            t.say("nothing.")
        for index, (thing, n) in enumerate(owned):
            mark = "." if index == parts - 1 else " and" if index == parts - 2 else ","
            t.fact("recall", "", str(n), counts_near(n), f" {thing.named(n)}{mark}")
        if t.toy.where is person:
            t.say(f"the {t.toy.name}.")
    t.fact("house", "In the", t.house, [*COLOURS], f" house {t.someone([*t.people()]).name} dreamed of")
    t.say(f"{ANIMALS[t.pick(evenly(ANIMALS))].many}. The end.")


def tell(chooser: Chooser) -> Teller:
    """Tells one story. It ends with `The end.`, which occurs nowhere else, so that the text alone says that it is over."""
    t = Teller(chooser)
    habit = begin(t)
    previous = ""
    for told in range(MOST_EVENTS):
        if told >= FEWEST_EVENTS and t.pick({"stop": STOP, "on": 1 - STOP}) == "stop":
            break
        events = {name: (weight, able) for name, weight, able in who_can(t) if able and name != previous}
        name = t.pick({name: weight * (3 if name == habit else 1) for name, (weight, _) in events.items()})
        TELL[name](t, t.someone(events[name][1]))
        previous = name
    end(t)
    return t
