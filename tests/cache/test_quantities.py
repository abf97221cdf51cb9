"""Numbers and units however they are written."""

import time

import pytest

from funnel.cache.quantities import Quantity, count, quantities


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 GB", {Quantity("5", "gb")}),
        ("5gb", {Quantity("5", "gb")}),
        ("$1,000", {Quantity("1000", "dollar")}),
        ("1,00,000 rupees", {Quantity("100000", "rupee")}),
        ("60k", {Quantity("60000")}),
        ("2.50 dollars", {Quantity("2.5", "dollar")}),
        ("version 3.10", {Quantity("3.10")}),
        ("version 3.0", {Quantity("3")}),
        ("twenty-one days", {Quantity("21", "day")}),
        ("three million", {Quantity("3000000")}),
        ("World War II", {Quantity("2")}),
        ("8:30 pm", {Quantity("8.3", "pm")}),
        ("180 degrees Celsius", {Quantity("180", "celsius")}),
        ("500/1000 notes", {Quantity("500"), Quantity("1000")}),
        ("the 2nd of 3rd", {Quantity("2"), Quantity("3")}),
        ("iPhone12", {Quantity("12")}),
        ("0.5 mm", {Quantity("0.5", "millimetre")}),
        (".50 mm", {Quantity("0.5", "millimetre")}),
        ("agent 007", {Quantity("7")}),
        ("-5 degrees", {Quantity("-5")}),
        ("minus five dollars", {Quantity("-5", "dollar")}),
        ("-$20 at -3", {Quantity("-20", "dollar"), Quantity("-3")}),
        ("5-10 or 5 -10 days", {Quantity("5"), Quantity("10", "day"), Quantity("10")}),
        ("2am -5am", {Quantity("2", "am"), Quantity("5", "am")}),
        ("covid-19, covid -19, jan -17", {Quantity("19"), Quantity("17")}),
        ("a power -2.5 lens", {Quantity("-2.5")}),
        ("10 minus 5, ten minus 5", {Quantity("10"), Quantity("5")}),
        ("01/02/2024", {Quantity("1/2/2024")}),
        ("25/12/2024 or 12/25/2024", {Quantity("2024-12-25")}),
        ("2024-12-25 or 25.12.2024", {Quantity("2024-12-25")}),
        ("31/31/2024", {Quantity("31"), Quantity("2024")}),
        ("1/2 cup", {Quantity("1/2")}),
        ("call 555-123-4567", {Quantity("555"), Quantity("123"), Quantity("4567")}),
        ("iPhone 6/6s in 2015/16", {Quantity("6"), Quantity("2015"), Quantity("16")}),
        ("one of those", set()),
        ("no numbers here", set()),
    ],
)
def test_quantities(text: str, expected: set[Quantity]) -> None:
    """Digits, words, multipliers, Roman numerals, currencies and units."""
    assert quantities(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10 or 20 per 30 days", {("10", "per"), ("20", "per"), ("30", "days")}),
        ("step 1 of chapter 2", {("1", "chapter"), ("2", "")}),
        ("500 and Rs 1000 notes", {("500", "notes"), ("1000", "notes")}),
        ("5-10 minutes", {("5", "minutes"), ("10", "minutes")}),
        ("3 and more cats", {("3", "")}),
        ("ends with 5", {("5", "")}),
    ],
)
def test_what_is_counted(text: str, expected: set[tuple[str, str]]) -> None:
    """A number belongs to the next word that means something, and a list shares it."""
    assert {(one.quantity.value, one.of) for one in count(text)} == expected


def test_a_long_list_of_numbers_is_read_at_once() -> None:
    """No text makes the guards look at every number from every other."""
    text = "1, 1/2, -3 minus 4 and " * 350
    began = time.perf_counter()
    assert {one.quantity.value for one in count(text)} == {"1", "1/2", "-3", "4"}
    assert time.perf_counter() - began < 1
