"""Tool ``calculator``: arithmetic, exactly, without running any code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.types import Register

OPERATIONS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
LONGEST = 200  # characters
LARGEST_POWER = 64
DIGITS = 12  # significant ones of what is no whole number


@hookimpl
def register_tools(register: Register) -> None:
    register("calculator", calculator, timeout=5.0)


def calculator(expression: str) -> str:
    """Work out an arithmetic expression.

    Args:
        expression: Numbers with + - * / // % ** and brackets, such as (12 + 3) * 4.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"an expression has at most {LONGEST} characters")
    try:
        tree = ast.parse(expression.strip().replace("^", "**"), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is no arithmetic expression") from error
    value = _value(tree.body)
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.{DIGITS}g}"


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATIONS:
        return Fraction(OPERATIONS[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            if right.denominator != 1 or abs(right) > LARGEST_POWER:
                raise ValueError(f"a power is a whole number up to {LARGEST_POWER}")
            return Fraction(left**right)
        if type(node.op) in OPERATIONS:
            return Fraction(OPERATIONS[type(node.op)](left, right))
    raise ValueError(f"{ast.unparse(node)!r} is no arithmetic")
