"""Expressions of ListOps: how random ones grow, and what their value is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
CLOSE = "]"
DIGITS = tuple("0123456789")
VOCABULARY = (*OPERATORS, CLOSE, *DIGITS)
LENGTH = 2000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the Long Range Arena's ListOps.

    Attributes:
        shorter: Expressions have more tokens than this.
        longer: Expressions have fewer tokens than this.
        depth: Levels of nesting, the digits' included.
        arguments: An operator has 2 to this many.
        operator_probability: Chance that a node above the deepest level is an operator.
    """

    shorter: int = 500
    longer: int = LENGTH
    depth: int = 10
    arguments: int = 10
    operator_probability: float = 0.25


SHORT = Limits(shorter=50, longer=201)
"""Expressions of 51 to 200 tokens: ours, for models and times of a small machine."""


class _TooLong(Exception):
    """The expression cannot become valid any more."""


def random_expression(generator: random.Random, limits: Limits) -> list[str]:
    """Grow trees from the grammar until one has a valid length, and return its tokens."""
    while True:
        tokens: list[str] = []
        try:
            _grow(generator, limits, 1, tokens)
        except _TooLong:
            continue
        if len(tokens) > limits.shorter:
            return tokens


def _grow(generator: random.Random, limits: Limits, depth: int, tokens: list[str]) -> None:
    # random() alone is promised to give the same numbers in every version of Python; randint is not.
    draw = generator.random
    if depth == limits.depth or draw() >= limits.operator_probability:
        tokens.append(DIGITS[int(draw() * len(DIGITS))])
    else:
        count = 2 + int(draw() * (limits.arguments - 1))
        tokens.append(OPERATORS[int(draw() * len(OPERATORS))])
        for _ in range(count):
            _grow(generator, limits, depth + 1, tokens)
        tokens.append(CLOSE)
    if len(tokens) >= limits.longer:
        raise _TooLong


def evaluate(tokens: Sequence[str]) -> int:
    """Return the value 0-9 of an expression.

    The median of an even number of values is the mean of the middle two, rounded down.

    Raises:
        ValueError: If the tokens are not one expression.
    """
    pending: list[tuple[str, list[int]]] = [("", [])]
    for position, token in enumerate(tokens):
        if token in OPERATORS:
            pending.append((token, []))
        elif token in DIGITS:
            pending[-1][1].append(int(token))
        elif token == CLOSE and len(pending) > 1 and pending[-1][1]:
            operator, values = pending.pop()
            pending[-1][1].append(_apply(operator, values))
        else:
            raise ValueError(f"token {position} of the expression, {token!r}, does not fit there")
    if len(pending) != 1 or len(pending[0][1]) != 1:
        raise ValueError(f"{len(tokens)} tokens are not one whole expression: {' '.join(tokens)[:60]!r}")
    return pending[0][1][0]


def _apply(operator: str, values: list[int]) -> int:
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[SM":
        return sum(values) % 10
    ordered = sorted(values)
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) // 2
