"""How the steps of an export tell what they do."""

from collections.abc import Callable

Say = Callable[[str], None]
