"""Links: they give back what they were made of, and what strangers write into them is checked."""

from dataclasses import asdict, fields
from urllib.parse import parse_qsl

import pytest

from app.settings import Settings
from app.share_link import SETTINGS, NamedPlace, SharedRun, from_query, to_query
from tests.made_runs import HOSTILE

CHOSEN = Settings(max_new_tokens=12, temperature=0.75, top_p=0.9, seed=2**31 - 1)
GOOD = {"prompt": "The keeper", "length": "12", "temperature": "0", "top_p": "1", "seed": "7"}


def read(query: str) -> SharedRun:
    return from_query(dict(parse_qsl(query)))


@pytest.mark.parametrize("prompt", ["The keeper", " spaces  kept\n& more=?#+%", HOSTILE, "Élodie 🗼"])
def test_prompt_and_settings_come_back(prompt):
    assert read(to_query(CHOSEN, prompt)) == SharedRun(prompt, None, asdict(CHOSEN))


def test_a_place_comes_back_by_the_name_of_its_document():
    place = NamedPlace("my <b>notes</b> & more.txt", 0.605)
    assert read(to_query(CHOSEN, "no matter", place)) == SharedRun(None, place, asdict(CHOSEN))


def test_every_setting_is_in_the_link():
    assert set(SETTINGS.values()) == {item.name for item in fields(Settings)}


def test_an_address_without_any_of_our_keys_asks_for_nothing():
    assert from_query({"__theme": "dark", "evil": "1"}).is_empty


def test_what_is_missing_is_said_and_left_as_it_is():
    found = from_query({"seed": "7"})
    assert found.settings == {"seed": 7}
    assert found.problems == (
        "The link holds no prompt.",
        "The link does not say length.",
        "The link does not say temperature.",
        "The link does not say top_p.",
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("length", "100000", "Length is 100000; it must be from 1 to 256"),
        ("length", "12.5", "length is '12.5'; it must be a whole number"),
        ("length", "9" * 5000, "it must be a whole number"),
        ("length", "٣٠٠", "Length is 300"),
        ("temperature", "nan", "temperature is 'nan'; it must be a number"),
        ("temperature", "inf", "it must be a number"),
        ("temperature", "-1", "Temperature is -1"),
        ("temperature", "<script>", "it must be a number"),
        ("top_p", "0", "Top-p is 0"),
        ("top_p", "", "top_p is ''; it must be a number"),
        ("seed", "-1", "Seed is -1"),
        ("seed", str(2**31), "Seed is 2147483648"),
        ("prompt", "   ", "prompt is empty"),
        ("prompt", "x" * 20_001, "at most 20,000 are allowed"),
    ],
)
def test_a_bad_value_is_said_and_the_others_are_taken(key, value, said):
    found = from_query(GOOD | {key: value})
    assert len(found.problems) == 1
    assert said in found.problems[0]
    assert len(found.settings) + (found.prompt is not None) == 4


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"document": " ", "share": "50"}, "name of 1 characters"),
        ({"document": "x" * 201, "share": "50"}, "name of 201 characters"),
        ({"document": "a.txt", "share": "0"}, "share is 0; it must be from 1 to 99"),
        ({"document": "a.txt", "share": "1e9"}, "share is 1e+09"),
        ({"document": "a.txt", "share": "half"}, "share is 'half'"),
        ({"document": "a.txt"}, "does not say share"),
    ],
)
def test_a_bad_place_is_said_and_the_prompt_stays(place, said):
    found = from_query(GOOD | place)
    assert found.place is None
    assert found.prompt == "The keeper"
    assert said in found.problems[0]
