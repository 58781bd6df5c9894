"""What users are told, in the right number."""

import pytest

from ecea.runtime.words import counted


@pytest.mark.parametrize(("count", "said"), [(0, "0 tiles"), (1, "1 tile"), (2, "2 tiles"), (1000, "1000 tiles")])
def test_one_thing_is_no_plural(count, said):
    assert counted(count, "tile") == said
