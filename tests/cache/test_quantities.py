"""Numbers and units however they are written."""

import pytest

from funnel.cache.quantities import Quantity, quantities


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
        ("one of those", set()),
        ("no numbers here", set()),
    ],
)
def test_quantities(text: str, expected: set[Quantity]) -> None:
    """Digits, words, multipliers, Roman numerals, currencies and units."""
    assert quantities(text) == expected
