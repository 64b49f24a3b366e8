"""The words of the world: synonyms, sentence wordings and who may use which.

Wordings come in three groups. "base" and "judge" are disjoint, so that the student's pretraining and
the tiny judge never share a sentence form; training and in-distribution evaluation use both; "held"
(half of all) is kept for out-of-distribution evaluation.
"""

from __future__ import annotations

from research.world.scene import COLOURS, SHAPES, SIZES, TEXTURES

SYNONYMS = {
    "red": "crimson", "orange": "tangerine", "yellow": "golden", "green": "emerald",
    "blue": "azure", "purple": "violet", "pink": "rosy", "white": "snowy",
    "circle": "disc", "square": "box", "diamond": "rhombus", "cross": "plus",
    "ring": "hoop", "moon": "crescent", "triangle": "wedge", "arrow": "pointer",
    "small": "little", "large": "big", "solid": "plain", "striped": "banded", "dotted": "spotted",
}  # fmt: skip
LABELS = {
    "top": "upper",
    "bottom": "lower",
    "center": "middle",
    "left": "leftmost",
    "right": "rightmost",
}
"""Second names that only labels and answers use: in a sentence they would read differently."""
CANONICAL = {word: word for word in (*COLOURS, *SHAPES, *SIZES, *TEXTURES)}
CANONICAL |= {synonym: word for word, synonym in SYNONYMS.items()}
NUMBERS = ("no", "one", "two", "three", "four", "five")
IRREGULAR = {"cross": "crosses", "box": "boxes", "plus": "pluses", "fish": "fish", "sheep": "sheep"}

GROUPS = {
    "base": ("base",),
    "judge": ("judge",),
    "train": ("base", "judge"),
    "eval": ("base", "judge"),
}

LISTS = {
    "base": ("{list}", "a picture of {list}", "there is {list}", "the image shows {list}"),
    "judge": ("a scene with {list}", "you can see {list}", "here is {list}", "an image of {list}"),
    "held": (
        "this drawing contains {list}", "in view: {list}", "someone drew {list}",
        "{list} can be found here", "the artwork depicts {list}", "visible are {list}",
        "a composition made of {list}", "one notices {list}",
    ),
}  # fmt: skip
RELATED = {
    "base": (
        "{a} {rel} {b}", "there is {a} {rel} {b}", "{a} is {rel} {b}",
        "{b} with {a} {side}", "a picture of {a} {rel} {b}",
    ),
    "judge": (
        "{b} has {a} {side}", "{a} can be seen {rel} {b}", "you can see {a} {rel} {b}",
        "the image shows {b} and {side} {a}", "{rel} {b} there is {a}",
    ),
    "held": (
        "{a} placed {rel} {b}", "{rel} {b} sits {a}", "look {rel} {b} to find {a}",
        "{a} has been put {rel} {b}", "{b} , and {side} one finds {a}", "{a} appears {rel} {b}",
        "someone drew {a} {rel} {b}", "find {a} {rel} {b}",
        "the artwork depicts {a} {rel} {b}", "{a} stands {rel} {b}",
    ),
}  # fmt: skip
PLACED = {
    "base": (
        "{a} in the {place}", "there is {a} in the {place}",
        "{a} is in the {place}", "in the {place} there is {a}",
    ),
    "judge": (
        "the {place} shows {a}", "{a} at the {place}",
        "the image shows {a} in the {place}", "you can see {a} at the {place}",
    ),
    "held": (
        "{a} occupies the {place}", "the {place} of the picture holds {a}",
        "look at the {place} to find {a}", "{a} has been put in the {place}",
        "{a} sits in the {place}", "the {place} part contains {a}",
        "over in the {place} is {a}", "{place} : {a}",
    ),
}  # fmt: skip
COUNTED = {
    "base": ("there are {count}", "{count}"),
    "judge": ("a picture with {count}", "the image shows {count}"),
    "held": ("{count} can be found here", "one counts {count}", "someone drew {count}", "in all {count}"),
}  # fmt: skip
GROUNDED = {
    "base": ("{text} on a {ground} background", "{text} on {ground}"),
    "judge": ("{text} in front of {ground}", "on a {ground} background , {text}"),
    "held": (
        "{text} against a {ground} backdrop", "{text} over {ground}",
        "{text} , everything else {ground}", "a {ground} backdrop and {text}",
    ),
}  # fmt: skip
PREPOSITIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
SIDES = {
    "left of": "to its left", "right of": "to its right", "above": "above it", "below": "below it",
}  # fmt: skip

QUESTIONS = {
    "colour": {
        "base": ("what color is {a} ?", "which color does {a} have ?"),
        "judge": ("the color of {a} ?", "{a} is of what color ?"),
        "held": ("name the color of {a} .", "in which color was {a} painted ?"),
    },
    "shape": {
        "base": ("what is {a} ?", "which shape is {a} ?"),
        "judge": ("the shape of {a} ?", "{a} is a what ?"),
        "held": ("name {a} .", "what would you call {a} ?"),
    },
    "size": {
        "base": ("what size is {a} ?", "how large is {a} ?"),
        "judge": ("the size of {a} ?", "{a} is of what size ?"),
        "held": ("tell the size of {a} .", "is {a} small or large ?"),
    },
    "texture": {
        "base": ("what texture does {a} have ?", "which pattern is on {a} ?"),
        "judge": ("the texture of {a} ?", "{a} has what texture ?"),
        "held": ("name the pattern of {a} .", "is {a} solid , striped or dotted ?"),
    },
    "position": {
        "base": ("where is {a} ?", "in which place is {a} ?"),
        "judge": ("the place of {a} ?", "{a} is where ?"),
        "held": ("locate {a} .", "where can {a} be found ?"),
    },
    "background": {
        "base": ("what color is the background ?", "which background is it ?"),
        "judge": ("the color of the background ?", "the background is of what color ?"),
        "held": ("name the color of the backdrop .", "what is behind everything ?"),
    },
    "count": {
        "base": ("how many {many} are there ?", "count the {many} ."),
        "judge": ("the number of {many} ?", "there are how many {many} ?"),
        "held": ("how many {many} can be found ?", "tell the number of {many} ."),
    },
    "relation": {
        "base": ("what is {rel} {a} ?", "which object is {rel} {a} ?"),
        "judge": ("{rel} {a} there is what ?", "the object {rel} {a} ?"),
        "held": ("name the object {rel} {a} .", "what can be found {rel} {a} ?"),
    },
    "existence": {
        "base": ("is there {a} ?", "is {a} in the picture ?"),
        "judge": ("does the image show {a} ?", "can you see {a} ?"),
        "held": ("does {a} appear ?", "can {a} be found here ?"),
    },
    "related": {
        "base": ("is {a} {rel} {b} ?", "is there {a} {rel} {b} ?"),
        "judge": ("does {b} have {a} {side} ?", "can you see {a} {rel} {b} ?"),
        "held": ("does {a} appear {rel} {b} ?", "has {a} been put {rel} {b} ?"),
    },
}


def wordings(table: dict[str, tuple[str, ...]], partition: str, held: bool) -> tuple[str, ...]:
    """Return the wordings a partition may use, or the held-out ones."""
    if held:
        return table["held"]
    return tuple(wording for group in GROUPS[partition] for wording in table[group])


def plural(noun: str) -> str:
    """Return the plural of a kind's name."""
    return IRREGULAR.get(noun, noun + "s")


def article(phrase: str) -> str:
    """Put "a" or "an" before a noun phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
