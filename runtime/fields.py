"""Values of a JSON document, each with its name: one that is not what it should be is told with what was found."""

import json
from collections.abc import Iterator

_ABSENT = object()
_LONGEST = 60  # characters of a value that a message repeats


class FieldError(ValueError):
    """A value is not what was expected; the message says which, what was found and what was expected."""


class Field:
    """A value of a document.

    Args:
        value: as ``json.loads`` gives it.
        name: such as ``engines[0].files[1].size``; empty for the document itself.
    """

    def __init__(self, value: object, name: str = "") -> None:
        self.value = value
        self._name = name

    @property
    def given(self) -> bool:
        """Whether it is there, and not null."""
        return self.value is not _ABSENT and self.value is not None

    def error(self, expected: str) -> FieldError:
        """What to raise where it is not as expected."""
        shown = "missing" if self.value is _ABSENT else json.dumps(self.value, ensure_ascii=False)
        shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
        return FieldError(f"{self._name} is {shown}, expected {expected}".lstrip())

    def demand(self, good: bool, expected: str) -> None:
        """Raise :class:`FieldError` unless it is good."""
        if not good:
            raise self.error(expected)

    def __getitem__(self, key: str) -> "Field":
        """The field of an object; one that is missing is told when it is asked for what it should be."""
        return Field(self.mapping().get(key, _ABSENT), f"{self._name}.{key}".lstrip("."))

    def __iter__(self) -> Iterator["Field"]:
        """The items of a list."""
        if not isinstance(self.value, list):
            raise self.error("a list")
        return iter([Field(value, f"{self._name}[{index}]") for index, value in enumerate(self.value)])

    def mapping(self) -> dict[str, object]:
        """An object: values with names."""
        if not isinstance(self.value, dict):
            raise self.error("an object")
        return self.value

    def text(self) -> str:
        """A text that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.error("a text")
        return self.value

    def integer(self, least: int, most: int | None = None) -> int:
        """A whole number from one to another, these included."""
        expected = f"a whole number, {least} " + ("or more" if most is None else f"to {most}")
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.error(expected)
        self.demand(least <= self.value and (most is None or self.value <= most), expected)
        return self.value

    def number(self, least: float, most: float) -> float:
        """A number from one to another, these included."""
        expected = f"a number, {least:g} to {most:g}"
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            raise self.error(expected)
        self.demand(least <= self.value <= most, expected)
        return float(self.value)
