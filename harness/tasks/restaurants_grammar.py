"""The grammar behind the embedded task: slots, their values, and the sentences that state them.

A meaning representation is a choice of values for some of eight slots; ``realise`` draws one English text that states
exactly those. A text is planned in three draws: where each fact goes (before the noun, after it, or in a verb phrase),
how the first sentence opens, and how the remaining verb phrases are grouped into sentences. Earlier options are
likelier than later ones, so that there is a most usual way to say a thing, and room around it.

All names and places are invented for this task.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

NAMES = (
    "The Copper Heron", "Bramble House", "Olive Row", "The Quiet Otter", "Pepperwood", "Saffron Gate", "The Tin Whistle",
    "Marlow Table", "Juniper Yard", "The Painted Snail", "Thistle Down", "Orchard Nine", "The Brass Kettle", "Amberley",
    "Lemon Street Kitchen", "The Velvet Fig", "Northwind", "Cinder Lane", "The Wandering Goat", "Larkspur", "Plum Corner",
    "The Silver Ladle", "Mossgrove", "Harvest Bell", "The Hungry Badger", "Fennel Court", "Driftwood", "The Last Pear",
    "Sorrel Garden", "Willow Hatch", "The Seven Spoons", "Tamarind Steps", "Ivy Cellar", "The Merry Finch", "Stonebridge",
    "Cardamom Hill", "The Paper Crane", "Hazel Barn", "Rosewater", "The Blue Anchor Room",
)  # fmt: skip
KINDS = ("bistro", "tavern", "tearoom", "diner", "brasserie", "canteen")
CUISINES = (
    "Greek",
    "Korean",
    "Mexican",
    "Lebanese",
    "Vietnamese",
    "Spanish",
    "Moroccan",
    "Thai",
    "Turkish",
    "Peruvian",
)
LANDMARKS = (
    "Corn Exchange", "Lantern Theatre", "Ferry Terminal", "Botanic Garden", "Clock Tower", "Maritime Museum",
    "Town Library", "Rowing Club", "Glass Works", "Opera House", "Swimming Baths", "Art School",
)  # fmt: skip
DISTRICTS: Mapping[str, tuple[str, ...]] = {
    "old town": ("in the old town", "in the old town area"),
    "harbour": ("by the harbour", "at the harbour", "in the harbour area"),
    "market square": ("on the market square", "by the market square"),
    "university quarter": ("in the university quarter",),
    "north bank": ("on the north bank",),
    "station quarter": ("in the station quarter",),
    "hillside": ("on the hillside", "up on the hillside"),
    "canal basin": ("at the canal basin", "by the canal basin"),
}
BESIDE = ("next to the {}", "beside the {}", "close to the {}")
SCORES: Mapping[str, str] = {
    "1 star": "one",
    "2 stars": "two",
    "3 stars": "three",
    "4 stars": "four",
    "5 stars": "five",
}

# Each value's ways of being said: before a noun, as "... prices", and as a verb phrase ("{a}" is where "also" may stand).
COST_ADJECTIVES: Mapping[str, tuple[str, ...]] = {
    "budget": ("inexpensive", "low-cost", "cheap"),
    "fair": ("moderately priced", "mid-priced"),
    "premium": ("expensive", "upmarket", "pricey"),
}
COST_PRICES: Mapping[str, str] = {"budget": "low prices", "fair": "moderate prices", "premium": "high prices"}
COST_PHRASES: Mapping[str, tuple[str, ...]] = {
    "budget": ("{a}has low prices", "is {a}inexpensive", "is {a}cheap"),
    "fair": ("{a}has moderate prices", "is {a}moderately priced"),
    "premium": ("{a}has high prices", "is {a}expensive", "is {a}rather pricey"),
}
KIDS_ADJECTIVES: Mapping[str, str] = {"yes": "child-friendly", "no": "adults-only"}
KIDS_PHRASES: Mapping[str, tuple[str, ...]] = {
    "yes": ("{a}welcomes children", "is {a}suitable for children", "is {a}child-friendly"),
    "no": ("does not admit children", "is not suitable for children", "is {a}for adults only"),
}
KIDS_CLAUSES: Mapping[str, tuple[str, ...]] = {
    "yes": ("where children are welcome", "that welcomes children"),
    "no": ("where children are not admitted", "that does not admit children"),
}
CUISINE_PHRASES = ("{a}serves %s food", "{a}serves %s dishes", "{a}specialises in %s cooking")
CUISINE_PARTICIPLES = ("serving %s food", "offering %s dishes")
GENERIC_HEADS = ("restaurant", "place", "eatery")

SLOT_VALUES: Mapping[str, tuple[str, ...]] = {
    "name": NAMES,
    "kind": KINDS,
    "cuisine": CUISINES,
    "cost": tuple(COST_PRICES),
    "score": tuple(SCORES),
    "district": tuple(DISTRICTS),
    "beside": LANDMARKS,
    "kids": ("yes", "no"),
}
"""Every slot with its values, in the order a meaning representation lists them."""


class Draws:
    """Weighted draws that use nothing but ``random.Random.random``, whose sequence is fixed for all Python versions."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self._random() < probability

    def below(self, count: int) -> int:
        """Return one of 0 .. count - 1, all equally likely."""
        return int(self._random() * count)

    def pick(self, options: Sequence[T]) -> T:
        """Return one option; the first is likeliest, each next one about half as likely."""
        weights = [0.5**rank for rank in range(len(options))]
        at = self._random() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            at -= weight
            if at < 0:
                return option
        return options[-1]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order (Fisher-Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result


def realise(facts: Mapping[str, str], draws: Draws) -> str:
    """Return one English text that states exactly the facts given (the name may recur as a subject).

    Args:
        facts: slot -> value; "name" and at least one other slot of ``SLOT_VALUES``.
        draws: the source of every choice.
    """
    return _Text(facts, draws).write()


class _Text:
    """One text in the making."""

    def __init__(self, facts: Mapping[str, str], draws: Draws) -> None:
        self.facts = facts
        self.draws = draws
        self.name = facts["name"]
        self.head = facts.get("kind") or draws.pick(GENERIC_HEADS)
        self.before: list[str] = []  # slots said as adjectives
        self.after: list[str] = []  # slots said behind the noun
        self.verbs: list[str] = []  # slots said as verb phrases
        self._place_facts()

    def _place_facts(self) -> None:
        draws = self.draws
        for slot, options in (
            ("kids", ("verb", "before", "after")),
            ("cost", ("before", "verb", "after")),
            ("score", ("verb", "after", "before")),
            ("cuisine", ("before", "after", "verb")),
        ):
            if slot in self.facts:
                {"before": self.before, "after": self.after, "verb": self.verbs}[draws.pick(options)].append(slot)
        if len(self.before) == 4:  # a pile of adjectives is no English
            self.before.remove("kids")
            self.verbs.append("kids")
        if "kids" in self.after and len(self.after) > 1:
            self.after.remove("kids")
            self.verbs.append("kids")

    def write(self) -> str:
        first = self._first_sentence()
        sentences = [first, *self._following_sentences()]
        return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)

    def _first_sentence(self) -> str:
        place = self._location()
        bare = not (self.before or self.after or "kind" in self.facts)
        if bare and not place:
            return f"{self.name} {self._predicate(self._take(len(self.verbs)))}"
        openings = ["is"]
        if place and not bare:
            openings += ["located", "front"]
        openings.append("there")
        if self.verbs and not bare:
            openings.append("apposition")
        if "cuisine" in self.verbs:
            openings.insert(1, "for")
        if "kids" in self.verbs and not bare:
            openings.append("children")
        opening = self.draws.pick(openings)
        name = self.name
        if opening == "located":
            return f"{self.draws.pick(('located', 'situated'))} {place}, {name} is {self._noun_phrase('')}"
        if opening == "front":
            if self.draws.chance(0.6):
                return f"{place}, there is {self._noun_phrase(f'called {name}', naming=True)}"
            return f"{place} you will find {name}, {self._noun_phrase('')}"
        if opening == "there":
            return f"there is {self._noun_phrase(place, called=name)}"
        if opening == "apposition":
            return f"{name}, {self._noun_phrase(place)}, {self._predicate(self._take(1 + self.draws.below(2)))}"
        if opening == "for":
            self.verbs.remove("cuisine")
            food = f"{self.facts['cuisine']} {self.draws.pick(('food', 'cooking'))}"
            if "cost" in self.verbs:
                self.verbs.remove("cost")
                food += f" at {COST_PRICES[self.facts['cost']]}"
            return f"for {food}, try {name}, {self._noun_phrase(place)}"
        if opening == "children":
            self.verbs.remove("kids")
            admitted = "welcome" if self.facts["kids"] == "yes" else "not admitted"
            return f"children are {admitted} at {name}, {self._noun_phrase(place)}"
        return f"{name} is {self._noun_phrase(place)}"

    def _location(self) -> str:
        parts = []
        if "district" in self.facts:
            parts.append(self.draws.pick(DISTRICTS[self.facts["district"]]))
        if "beside" in self.facts:
            parts.append(self.draws.pick(BESIDE).format(self.facts["beside"]))
        if len(parts) == 2 and self.draws.chance(0.35):
            parts.reverse()
        return " ".join(parts)

    def _noun_phrase(self, place: str, called: str = "", naming: bool = False) -> str:
        facts, draws = self.facts, self.draws
        adjectives = {
            "kids": lambda: KIDS_ADJECTIVES[facts["kids"]],
            "cost": lambda: draws.pick(COST_ADJECTIVES[facts["cost"]]),
            "score": lambda: f"{SCORES[facts['score']]}-star",
            "cuisine": lambda: facts["cuisine"],
        }
        words = [*(adjectives[slot]() for slot in self.before), self.head]
        # By sound: "an old", but "a one-star".
        article = "an" if words[0][0].lower() in "aeiou" and not words[0].startswith("one-") else "a"
        tail = [f"called {called}"] if called else []
        if naming:
            tail.append(place)
            place = ""
        behind = list(self.after)
        if "cuisine" in behind:
            behind.remove("cuisine")
            serving = draws.pick(CUISINE_PARTICIPLES) % facts["cuisine"]
            if "cost" in behind:
                behind.remove("cost")
                serving += f" at {COST_PRICES[facts['cost']]}"
            tail.append(serving)
        if place:
            tail.append(place)
        having = {
            "cost": lambda: COST_PRICES[facts["cost"]],
            "score": lambda: f"a rating of {self._stars()}",
        }
        with_ = [having[slot]() for slot in behind if slot != "kids"]
        if with_:
            tail.append("with " + " and ".join(with_))
        if "kids" in behind:
            tail.append(draws.pick(KIDS_CLAUSES[facts["kids"]]))
        return " ".join([article, *words, *tail])

    def _stars(self) -> str:
        return f"{SCORES[self.facts['score']]} {'star' if self.facts['score'] == '1 star' else 'stars'}"

    def _take(self, count: int) -> list[str]:
        taken = self.draws.shuffled(self.verbs)[:count]
        for slot in taken:
            self.verbs.remove(slot)
        return taken

    def _predicate(self, slots: Sequence[str], also: bool = False) -> str:
        """Return the slots' verb phrases as one predicate; "also" goes into the first one that has a place for it."""
        draws, facts = self.draws, self.facts
        slots = list(slots)
        at_prices = "cuisine" in slots and "cost" in slots and draws.chance(0.6)
        if at_prices:
            slots.remove("cost")
        phrases: list[str] = []
        for slot in slots:
            if slot == "cuisine":
                phrase = draws.pick(CUISINE_PHRASES) % facts["cuisine"]
                if at_prices:
                    phrase += f" at {COST_PRICES[facts['cost']]}"
            elif slot == "cost":
                phrase = draws.pick(COST_PHRASES[facts["cost"]])
            elif slot == "score":
                phrase = draws.pick(("{a}has a rating of ", "is {a}rated ")) + self._stars()
            else:
                phrase = draws.pick(KIDS_PHRASES[facts["kids"]])
            phrases.append(phrase.format(a="also " if also and not phrases else ""))
        if len(phrases) == 2 and _opinion(slots[0], facts) * _opinion(slots[1], facts) < 0:
            return " but ".join(phrases)
        return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]

    def _following_sentences(self) -> list[str]:
        sentences: list[str] = []
        while self.verbs:
            slots = self._take(1 if self.draws.chance(0.2) else 2)
            if slots == ["score"] and self.draws.chance(0.35):
                sentences.append(f"guests give it {self._stars()}")
                continue
            subject = "it" if sentences else self.draws.pick(("it", f"the {self.head}", self.name))
            sentences.append(f"{subject} {self._predicate(slots, also=bool(sentences))}")
        return sentences


def _opinion(slot: str, facts: Mapping[str, str]) -> int:
    """Return 1 for a fact that speaks for the place, -1 for one that speaks against it, else 0."""
    good = {"budget", "4 stars", "5 stars", "yes"}
    bad = {"premium", "1 star", "2 stars", "no"}
    value = facts[slot]
    return (value in good) - (value in bad)
