"""Planted facts: sentences that state something once, and ask for it much later by repeating their beginning.

`Fact.statement` begins with `Fact.question` and goes on with `Fact.answer`. Names are made from syllables and divided
by a hash into those used in training and those held out, so that a measurement never asks for a name seen in training.
Templates are divided in the same way.
"""

import zlib
from dataclasses import dataclass
from random import Random

_ONSETS = "B Br C Cr D Dr E F Fl G Gr H J K L M N O P Pr Qu R S St T Th Tr U V W Y Z".split()
_MIDDLES = "a ae al an ar e ea el en er i ie il in ir o oa ol on or u ul un ur".split()
_ENDS = (
    "b bry c ck d dale den don f ford g gan k l la lan ley lin ll m man mer n na nor p r ra ric s sa sel t ta ton v va "
    "way wyn x"
).split()
COMMON_WORDS = (
    "anchor amber apple barley basket beacon bell bramble bridge candle canvas cedar cherry clover copper coral cradle "
    "crown dagger drum ember falcon feather fern flint fountain garnet ginger hammer harbour hazel heather iron ivory "
    "jasper juniper kettle ladder lantern laurel lemon linen lion magpie maple marble meadow mirror needle oak olive "
    "orchard otter paper pepper pigeon pillar plum quarry quill raven ribbon river saddle saffron sail salmon sparrow "
    "spindle stone swallow tallow thimble thistle thunder timber violet walnut willow window winter wren"
).split()

TRAINING_TEMPLATES = (
    ("The secret number of {name} is", "digits"),
    ("The number on the door of {name} was", "digits"),
    ("The password of {name} is", "words"),
    ("The strong box of {name} opens with the number", "digits"),
    ("The favourite word of {name} was", "words"),
    ("{name} was born in the village of", "place"),
    ("{name} kept the money in a chest marked", "digits"),
    ("In those years {name} served on a ship called the", "place"),
    ("The name of the horse that belonged to {name} was", "place"),
    ("The sign above the shop of {name} showed a", "words"),
    ("{name} owed the bank a sum of exactly", "digits"),
    ("The eldest daughter of {name} married a man called", "place"),
    ("The key of {name} hangs on the nail numbered", "digits"),
    ("{name} sleeps in the room with the number", "digits"),
    ("According to the register {name} arrived in the year", "digits"),
    ("The lottery ticket that {name} drew was number", "digits"),
    ("The dog that followed {name} everywhere was called", "place"),
    ("{name} learned the trade from a master called", "place"),
    ("The regiment of {name} was quartered at", "place"),
    ("The farm that {name} inherited is called", "place"),
    ("The garden of {name} is known for its", "words"),
    ("When asked for a pledge {name} always gave the", "words"),
    ("On the gravestone of {name} is carved a", "words"),
    ("The letter to {name} was sealed with a", "words"),
)
HELD_OUT_TEMPLATES = (
    ("The code that {name} wrote on the wall reads", "digits"),
    ("Everybody knew that {name} had been hidden at", "place"),
    ("The account that {name} opened has the number", "digits"),
    ("The two words carved on the ring of {name} are", "words"),
    ("Under the floor {name} had buried the sum of", "digits"),
    ("Behind the old mirror {name} discovered the number", "digits"),
    ("The captain wrote beside the name of {name} the figure", "digits"),
    ("The coach that carried {name} bore the number", "digits"),
    ("When the storm came {name} took shelter in", "place"),
    ("Every Sunday {name} walked to the chapel at", "place"),
    ("The cat that {name} fed answered to the name", "place"),
    ("The judge sent {name} to the prison of", "place"),
    ("The token agreed upon with {name} was a", "words"),
    ("In the will {name} left to the parish a", "words"),
    ("Above the bed {name} had nailed a", "words"),
    ("On the last evening {name} whispered the", "words"),
)
# Pieces of templates that are made up in training, so that no form of words is learned by heart.
_THINGS = (
    "ball bed boat book bottle box bridge carriage chair chapter clock coat cup debt desk dream drum farm field flag "
    "game gate gift glass gun hat hill horse house jewel knife lamp lock map medal mill order page picture pipe plan "
    "prize reward road rope sail saw seal seat shelf shield signal song spoon stable stick story street sum sword "
    "table tent toast tower trunk uncle wagon watch well wheel wish"
).split()
_VERBS = "is was reads says became remained means meant".split()
_DEEDS = (
    "asked for|bought|brought home|carried away|chose|drew|found|gave away|hid|kept|left behind|lost|made|named|owned|"
    "painted|promised|saw|sold|spoke of|stole|waited for|wanted|won"
).split("|")


@dataclass(frozen=True)
class Fact:
    """One planted fact: `statement == question + answer + "."`; the answer begins with a space."""

    question: str
    answer: str

    @property
    def statement(self) -> str:
        return f"{self.question}{self.answer}."


def make_name(rng: Random, *, held_out: bool = False) -> str:
    """A made-up first and second name; one in five of all names is held out from training, the same ones for ever."""
    while True:
        name = f"{make_word(rng)} {make_word(rng)}"
        if (zlib.crc32(name.encode()) % 5 == 0) == held_out:
            return name


def make_template(rng: Random) -> tuple[str, str]:
    """A template for training: one of the fixed ones, or one made up of a thing, a verb and a deed."""
    if rng.random() < 0.5:
        return rng.choice(TRAINING_TEMPLATES)
    thing, verb, kind = rng.choice(_THINGS), rng.choice(_VERBS), rng.choice(("digits", "words", "place"))
    middle = "of {name}" if rng.random() < 0.5 else f"that {{name}} {rng.choice(_DEEDS)}"
    return f"The {thing} {middle} {verb}", kind


def make_fact(rng: Random, *, held_out_name: bool = False, template: tuple[str, str] | None = None) -> Fact:
    """A fact with a fresh name and value, of the given template or of one made for training."""
    pattern, kind = template or make_template(rng)
    return Fact(pattern.replace("{name}", make_name(rng, held_out=held_out_name)), _make_answer(rng, kind))


def make_word(rng: Random) -> str:
    """A made-up word of three syllables at most, with a capital."""
    return rng.choice(_ONSETS) + rng.choice(_MIDDLES) + rng.choice(_ENDS)


def _make_answer(rng: Random, kind: str) -> str:
    if kind == "digits":
        return "".join(f" {rng.randrange(10)}" for _ in range(4))
    if kind == "words":
        return f" {rng.choice(COMMON_WORDS)} {rng.choice(COMMON_WORDS)}"
    return f" {make_word(rng)}"
