from __future__ import annotations

from collections.abc import Iterable

from startup_llm.errors import UserError, nearest


def check_at_least(minimum: float, **values: float) -> None:
    """Check that every named value is at least `minimum`.

    Raises:
        UserError: if one is smaller; the message names it and gives its value.
    """
    for name, value in values.items():
        if value < minimum:
            raise UserError(f"{name} ({value}) must be at least {minimum}")


def check_probability(**values: float) -> None:
    """Check that every named value lies in [0, 1).

    Raises:
        UserError: if one does not.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} ({value}) must be at least 0 and below 1")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Check that `value` is one of `choices`.

    Raises:
        UserError: if it is not; the message gives the nearest choice and all of them.
    """
    choices = list(choices)
    if value not in choices:
        raise UserError(f"unknown {name} {value!r}{nearest(value, choices)} (one of {', '.join(choices)})")


def check_heads(width: int, heads: int) -> None:
    """Check that `width` splits evenly over `heads`.

    Raises:
        UserError: if it does not; the message proposes the divisor of `width` nearest to `heads`.
    """
    check_at_least(1, width=width, heads=heads)
    if width % heads:
        divisors = [candidate for candidate in range(1, width + 1) if width % candidate == 0]
        better = min(divisors, key=lambda divisor: (abs(divisor - heads), -divisor))
        raise UserError(f"width ({width}) must be divisible by heads ({heads}); try heads={better}")


def check_length(tokens: int, max_length_tokens: int) -> None:
    """Check that a sequence fits the positions that the model has.

    Raises:
        UserError: if it does not.
    """
    if tokens > max_length_tokens:
        raise UserError(
            f"sequence of {tokens} tokens is longer than max_length_tokens ({max_length_tokens}); "
            f"cut it, or build the model with max_length_tokens={tokens}"
        )
