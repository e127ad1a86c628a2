"""Whether a text states the value of an E2E slot, decided by surface forms: an approximation, tuned on human references.

What counts: the value in one of its usual forms. Prices and ratings have three levels each, and the values of one level
count for each other ("cheap" and "less than £20", "high" and "5 out of 5"), as the data set's own writers use them.
Words that both slots share ("low", "average", "high") belong to the nearer of a price word and a rating word of the same
sentence. Names that hold such words (Burger King, Raja Indian Cuisine, All Bar One) are taken out first.

What does not: a value said in other words (counted as missing, a few percent), and a second, wrong value beside the
right one (not counted as wrong, except for family friendliness, where a denial overrules).
"""

from __future__ import annotations

import re
from functools import cache
from unicodedata import normalize

_PLACES = re.compile(
    r"all bar one|burger king|cafe (?:adriatic|brazil|rouge|sicilia)|crowne? plaza(?: hotel)?|green man"
    r"|express by holiday inn|rainbow vegetarian cafe|raja indian(?: cuisine)?|the golden curry|the rice boat"
    r"|the six bells|the twenty two|the waterman|yippee noodle bar|the bakers"
)

_KINDS = {
    "coffee shop": r"coffee[ -]?\w*|cafe\w*",
    "pub": r"pubs?|bar|tavern|inn",
    "restaurant": r"restaur\w*|restrau\w*|resturant\w*|diner|eatery|dining|bistro|place to eat|eating (?:place|establishment)",
}
_FOODS = {
    "chinese": r"chinese|china|chines",
    "english": r"english|british|fish (?:and|&|n) chips",
    "fast food": r"fast[ -]?foods?|burgers?|junk food",
    "french": r"french|france",
    "indian": r"indian?|curr(?:y|ies)",
    "italian": r"italian?|italy|pasta|pizzas?|spaghetti",
    "japanese": r"japan\w*|sushi",
}
_AREAS = {
    "riverside": r"river\w*|waterfront|waterside",
    "city centre": r"(?:city|town|cambridge)?(?:'s)?[ -]?(?:centre|center)|central\w*|downtown|(?:middle|heart) of (?:the |a )?\w+",
}
_NOT_CENTRE = re.compile(
    r"(?:outside|outskirts|out|away|far)(?: of| from)?(?: the)? \w* ?(?:centre|center)"
    r"|(?:not|n't)(?: \w+)? in(?: the)? (?:\w+ )?(?:centre|center)|shopping (?:centre|center)"
)

_YOUNG = r"(?:famil\w*|kids?|child\w*)"
_DENIED = re.compile(
    # "not really a family place", "no kids", "isn't child friendly"; but not "not cheap but family friendly"
    rf"(?:\b(?:not?|non|never|neither|nor|un|without|cannot|isnt|arent|doesnt|dont|lacks?|discourag\w*|avoid\w*)|n't)[ -]"
    rf"(?:(?!but|and|it\b|is\b|also|has|only|just)\w+[ -]){{0,5}}?{_YOUNG}"
    # "children are not allowed", "family friendly: no", "families should avoid it"
    rf"|{_YOUNG}(?:[ -](?:friendly|oriented))?[ :-]*(?:(?:are|is|was|were|should|would|will|do|does|may|can) ?)?"
    r"(?:not?\b|n't|never|avoid|elsewhere|discouraged|prohibited|free\b)"
    rf"|{_YOUNG}[ -](?:unfriendly|unwelcome|unsuitable)|un(?:suitable|friendly|welcom\w+) (?:\w+ )?(?:for|to|with)? ?{_YOUNG}"
    r"|adults?[ -]?(?:only|oriented|friendly|establish\w*|venue|place|environment|atmosphere|setting|crowd|coffee|pub|rest\w*)"
    r"|(?:for|to|only|towards?|at|an|suits?|welcomes?) (?:the )?(?:mature |older )?adults?\b(?! and)|mature|grown[ -]?ups?"
    r"|(?:leave|without) (?:the |your )?(?:kids|children)"
    r"|over (?:18|eighteen)|child[- ]?free|kids?[- ]free"
)
_ANY_AGE = re.compile(rf"(?:{_YOUNG}(?: and| or| &|,) adults?|adults?(?: and| or| &|,) (?:\w+ )?{_YOUNG}|all ages)")

_PRICE_WORD = re.compile(
    r"\b(?:pric\w*|cost\w*|range\w*|pounds?|spend\w*|budget|expens\w*|inexpensive|cheap\w*|charg\w*|pay\w*|bill)\b|£"
)
_RATING_WORD = re.compile(
    r"\b(?:rat(?:e|es|ed|ing|ings)|customers?|consumers?|guests?|reviews?|reviewed|reviewers?|stars?|scor\w*|out of|recommend\w*"
    r"|regarded|reputation|feedback|satisf\w*|dissatisf\w*|standards?|quality|approv\w*|popular\w*|opinions?|rank\w*)\b|/ ?5"
)

_LEVELS = {
    **dict.fromkeys(("cheap", "less than £20", "low", "1 out of 5"), "low"),
    **dict.fromkeys(("moderate", "£20-25", "average", "3 out of 5"), "middle"),
    **dict.fromkeys(("high", "more than £30", "5 out of 5"), "high"),
}
_MONEY = r"(?:£|gbp|eur|\$)? ?"
# Price levels: forms that stand for themselves, and words that need a price word nearby.
_PRICES = {
    "low": (
        r"(?<!not )(?<!not that )(?<!not too )(?<!not very )(?<!n't )(?<!not exactly )(?<!not the )(?:cheap\w*|inexpensive\w*)"
        r"|affordabl\w*|low[ -](?:cost|pric\w*|budget)"
        rf"|(?:less|lower|under|below|cheaper|up to|within|no more|not more|max\w*)\b[^.£\d]{{0,20}}{_MONEY}(?:20\b|twenty)"
        rf"|{_MONEY}20\b(?: ?pounds?)? (?:or|and) (?:less|under|below|lower)|not (?:\w+ )?(?:expensive|pric[ei]y|costly)",
        r"low\w*|bargain|small|budget",
    ),
    "middle": (
        rf"{_MONEY}(?:20|twenty)(?: ?pounds?)? ?(?:-|–|to|and|through|or|/) ?{_MONEY}(?:25|twenty[ -]?five)"
        r"|mid[ -]?(?:priced?|rang\w*(?! (?:customer|rat))|level)"
        r"|medium[ -]pric\w*|moderate\w*[ -](?:pric\w*|cost\w*)|reasonabl\w*",
        r"moderate\w*|(?<!above )(?<!above-)(?<!than )(?<!than-)(?<!below )average\w*|medium|mid|middle"
        r"|fair\w*|normal\w*|standard|decent\w*|modest\w*",
    ),
    "high": (
        r"(?<!not )(?<!not that )(?<!not too )(?<!not very )(?<!n't )(?:expensive|pric(?:ey|y)|costly|dear)\b"
        rf"|(?:more|over|above|higher|greater|least|excess|upwards?|start\w*|exceed\w*|from|beyond|plus)\b[^.£\d]{{0,20}}{_MONEY}(?:30\b|thirty)"
        rf"|{_MONEY}30\b(?: ?pounds?)? ?(?:\+|plus|(?:and|or) (?:more|over|above|up|higher))|up-?scale|high[ -]?end|upmarket"
        r"|(?:not|n't)(?: \w+)? cheap\w*",
        r"high(?!ly (?:rat|rec|reg|reviewed))\w*|above[- ]average|steep|premium|exclusive|large|big",
    ),
}
# Rating levels, likewise; a digit counts unless it is the scale ("out of 5").
_NO_SCALE = r"(?<!out of )(?<!out of a )(?<!out )(?<!over )(?<!to )(?<!/)(?<!/ )"
_DIGIT = rf"(?<![£.,-]){_NO_SCALE}"
_RATINGS = {
    "low": (
        r"poorly|poor|badly|terribl\w*|low[ -]?(?:ly)?[ -]rat\w*|below[ -](?:average|par|standard)",
        rf"low\w*|bad|negative\w*|disappoint\w*|weak|{_DIGIT}1\b|one\b(?! of (?!5|five|a poss))"
        r"|(?:not|n't)(?: \w+){0,2} (?:well|high\w*|good|great|recommend\w*|popular|best|favou?rabl\w*)|dissatisf\w*",
    ),
    "middle": (
        r"mediocre",
        rf"average\w*|moderate\w*|decent\w*|ok|okay|medium|mid\w*|fair\w*|satisfactory|reasonabl\w*|{_DIGIT}3\b|three\b",
    ),
    "high": (
        r"excellent\w*|outstanding\w*|top[ -]?(?:notch|rated)|well[ -](?:rated|liked|reviewed|regarded|received|recommended)"
        r"|highly|perfect\w*|superb",
        rf"high\w*|great\w*|good|well|best|top|positive\w*|favou?rabl\w*|popular|satisf\w*|fantastic|wonderful|{_DIGIT}5\b"
        rf"|{_NO_SCALE}five\b",
    ),
}
_NOT_GOOD = re.compile(
    r"(?:not|n't|nor|less)(?: \w+){0,2} (?:well|high\w*|good|great|recommend\w*|popular|best|favou?rabl\w*)"
)


def states(slot: str, value: str, text: str) -> bool:
    """Return whether ``text`` states ``value`` for ``slot``.

    Names and landmarks must stand there verbatim (case and accents aside), and so must any slot or value E2E does not have.
    """
    text, value = _plain(text), _plain(value)
    verbatim = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None
    if slot in ("name", "near"):
        return verbatim
    text = _PLACES.sub("@", text)
    if slot == "familyFriendly":
        inclusive = _ANY_AGE.sub("families", text)
        denied = _DENIED.search(inclusive) is not None
        return denied if value == "no" else not denied and re.search(rf"{_YOUNG}|all ages", inclusive) is not None
    level = _LEVELS.get(value, "")
    if slot == "priceRange" and level:
        return _at_level(text, *_PRICES[level], own=_PRICE_WORD, other=_RATING_WORD)
    if slot == "customer rating" and level:
        if level == "high":
            text = _NOT_GOOD.sub("@", text)
        return _at_level(text, *_RATINGS[level], own=_RATING_WORD, other=_PRICE_WORD)
    if slot == "area":
        text = _NOT_CENTRE.sub("@", text)
    form = {"eatType": _KINDS, "food": _FOODS, "area": _AREAS}.get(slot, {}).get(value)
    return verbatim if form is None else _pattern(form).search(text) is not None


def _plain(text: str) -> str:
    """Return the text in lower case, without accents, with straight quotes and single spaces ("£" stays)."""
    letters = normalize("NFKD", text.lower().replace("’", "'"))
    return " ".join("".join(c for c in letters if not "\u0300" <= c <= "\u036f").split())


@cache
def _pattern(form: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{form})(?!\w)")


def _at_level(text: str, certain: str, shared: str, own: re.Pattern[str], other: re.Pattern[str]) -> bool:
    """Return whether a certain form occurs, or a shared one nearer to a word of its own slot than to one of the other."""
    if _pattern(certain).search(text):
        return True
    for sentence in re.split(r"[.!?;](?:\s|$)", text):
        mine = [found.span() for found in own.finditer(sentence)]
        others = [found.span() for found in other.finditer(sentence)]
        for found in _pattern(shared).finditer(sentence):
            if mine and _gap(found.span(), mine) <= min(_gap(found.span(), others), 40):
                return True
    return False


def _gap(span: tuple[int, int], spans: list[tuple[int, int]]) -> int:
    """Return the number of characters between a span and the nearest other one that does not overlap it, or a large number."""
    gaps = [max(start - span[1], span[0] - end) for start, end in spans]
    return min((gap for gap in gaps if gap >= 0), default=1000)
