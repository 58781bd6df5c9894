"""Numbers of things in what users are told."""


def counted(count: int, thing: str) -> str:
    """``1 tile``, ``2 tiles``: of things whose plural ends in s."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
