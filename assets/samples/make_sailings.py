"""Write sailings.csv and sailings-test.csv, labelled examples from the harbour of Averstow, beside this script.

Each row is a line from the day book, which ends with the name of a ship, and the course on which she sailed. Nothing in
the words tells the course: every one of 96 ships always sails on the same one, so it can only be known from other rows
about her. Fixed seed and standard library only: every run writes the same bytes. No line of the test file stands in the
other one, and each ship sails in both.

Usage: python make_sailings.py
"""

import csv
import datetime
import random
from pathlib import Path

SEED = 1863
N_SHIPS, N_ROWS, N_TEST = 96, 2_400, 300
START = datetime.date(1863, 4, 1)
FOLDER = Path(__file__).parent
COURSES = ("north", "south", "east", "west")

FIRST = (
    "Amber Silver Golden Northern Patient Merry Bold Grey Fair Iron Little Early Old Young Crimson Gentle Proud Silent "
    "Swift Lucky Honest Green Blue Wild Lonely Royal Noble Sweet Broken Bright Constant Faithful"
).split()
SECOND = (
    "Anchor Arrow Badger Barnacle Beacon Blossom Bramble Candle Chanter Cherry Clover Compass Cormorant Cricket Curlew "
    "Cuckoo Daisy Dolly Dolphin Dragon Duchess Eagle Ember Falcon Feather Ferret Fiddle Fleece Fountain Garland Goose "
    "Grace Hammer Harrier Harvest Hawthorn Heron Herring Hunter Ivy Jackdaw Juniper Kestrel Kingfisher Kitten Lady "
    "Lantern Lark Laurel Linnet Lobster Magpie Maid Marigold Mariner Marten Mermaid Miller Mitre Nettle Nightingale "
    "Oak Orchard Otter Owl Partridge Pelican Petrel Pilgrim Pippin Plover Poppy Promise Puffin Queen Quill Rambler "
    "Raven Redwing Robin Rover Saddler Salmon Sapphire Shepherd Skylark Sparrow Starling Swallow Swan Thimble Thistle "
    "Thrift Thrush Trader Tulip Turtle Venture Vine Violet Wanderer Weaver Widow Willow Windflower Woodlark Wren Yeoman"
).split()
LINES = (
    "Sailed {hour} the {ship}",
    "Cleared {hour} the {ship}",
    "Went out {hour}, in {weather}, the {ship}",
    "In {weather} the {ship}",
    "{hour}, with {cargo}, the {ship}",
    "With {cargo}, in {weather}, the {ship}",
    "Left her berth {hour} the {ship}",
)
HOURS = (
    "at noon",
    "at dusk",
    "on the morning tide",
    "at six",
    "by lamplight",
    "at half-past two",
    "on the ebb",
    "before breakfast",
    "at nine o'clock",
    "after the rain",
)
WEATHER = (
    "light airs",
    "a fresh breeze",
    "half a gale",
    "a steady breeze",
    "thick weather",
    "a long swell",
    "bright sun",
    "a cold fog",
)
CARGOES = ("tallow", "barley", "lemons", "wool", "slate", "lamp oil", "herring", "salt", "oak planks", "green ink")


def make_ships(rng: random.Random) -> dict[str, str]:
    """Names, no two of which end with the same word, and their courses, as many ships on each."""
    names = [f"{rng.choice(FIRST)} {last}" for last in rng.sample(SECOND, N_SHIPS)]
    return {name: COURSES[i % len(COURSES)] for i, name in enumerate(names)}


def make_line(rng: random.Random, ship: str) -> str:
    """A line from the day book about a ship."""
    line = rng.choice(LINES).format(
        hour=rng.choice(HOURS), weather=rng.choice(WEATHER), cargo=rng.choice(CARGOES), ship=ship
    )
    return line[0].upper() + line[1:]


def make_rows(rng: random.Random, ships: dict[str, str]) -> list[tuple[str, str]]:
    """(line, course) for both files: every ship in turn, in another order each time, no line twice."""
    lines: dict[str, str] = {}
    while len(lines) < N_ROWS + N_TEST:
        for ship in rng.sample(list(ships), len(ships)):
            lines.setdefault(make_line(rng, ship), ships[ship])
    return list(lines.items())[: N_ROWS + N_TEST]


def write(path: Path, rows: list[tuple[str, str]], first: datetime.date) -> None:
    """A CSV file of date, entry and course; six sailings a day."""
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["date", "entry", "course"])
        for number, (line, course) in enumerate(rows):
            writer.writerow([first + datetime.timedelta(number // 6), line, course])
    print(f"{path.name}: {len(rows)} rows")


def main() -> None:
    """Write both files."""
    rng = random.Random(SEED)
    rows = make_rows(rng, make_ships(rng))
    write(FOLDER / "sailings.csv", rows[:N_ROWS], START)
    write(FOLDER / "sailings-test.csv", rows[N_ROWS:], START + datetime.timedelta(N_ROWS // 6))


if __name__ == "__main__":
    main()
