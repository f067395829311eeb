"""The operators and functions of gate expressions, on JSON values, each paying for its work out of an Effort.

Nothing here can grow a value out of bounds: what Python would do slowly or hugely is refused instead.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterable, MappingView, Sized
from typing import cast

from mcpkeep.protocol.errors import McpkeepError

__all__ = ["MAX_BITS", "MAX_DIGITS", "MAX_LENGTH", "MAX_SET", "Arithmetic", "Effort", "ExpressionError"]

MAX_BITS = 512
"""Size of an integer that may enter arithmetic, of a shift and of a power's result."""
MAX_LENGTH = 10_000
"""Length of a text or list that an expression may build by adding or repeating."""
MAX_SET = 1_000
"""Elements of a set built from evidence: numbers chosen to collide make a set quadratic."""
MAX_DIGITS = 100
"""Characters of a text that int() and float() read, and digits that round() keeps."""
DEFAULT_EFFORT = 2_000_000
"""Tenths of a second on a slow core; one element visited is 1."""

_CONTAINER_COST = 8
_NONE = object()
_SCALARS = frozenset((bool, int, float, type(None)))

_COMPARED: dict[type[ast.AST], str] = {
    **{ast.Eq: "eq", ast.NotEq: "ne"},
    **{ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"},
}
_RECKONED: dict[type[ast.AST], str] = {
    **{ast.Sub: "sub", ast.Div: "truediv", ast.FloorDiv: "floordiv", ast.Mod: "mod"},
    **{ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor"},
}

Binary = Callable[[object, object], object]


class ExpressionError(McpkeepError):
    """An expression is not one that gates may use, or it could not be evaluated on this evidence."""


class Effort:
    """What evaluating may still cost; one Effort over a whole gate bounds the gate."""

    def __init__(self, units: int = DEFAULT_EFFORT) -> None:
        self.left = units

    def spend(self, units: int) -> None:
        """Raise ExpressionError once more was asked for than there was."""
        self.left -= units
        if self.left < 0:
            raise ExpressionError("the expressions take too long on this evidence; submit less of it")


class Arithmetic:
    """The operators and functions of one evaluation."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort

    def operators(self) -> dict[type[ast.AST], Callable[..., object]]:
        """By syntax node, as simpleeval wants them."""
        return {
            **{kind: self._compared(_named(name)) for kind, name in _COMPARED.items()},
            **{kind: self._reckoned(_named(name)) for kind, name in _RECKONED.items()},
            ast.Add: self._add,
            ast.Mult: self._multiply,
            ast.Pow: _power,
            ast.LShift: _shift_left,
            ast.RShift: _shift_right,
            ast.Not: operator.not_,
            ast.USub: _negative,
            ast.UAdd: _number,
            ast.In: self._contains,
            ast.NotIn: self._lacks,
            ast.Is: operator.is_,
            ast.IsNot: operator.is_not,
        }

    def functions(self) -> dict[str, Callable[..., object]]:
        """By name; `isinstance` is a wrapper, since simpleeval refuses the real one."""
        return {
            "abs": _absolute,
            "all": self._all,
            "any": self._any,
            "bool": bool,
            "float": _float,
            "int": _int,
            "isinstance": _isinstance,
            "len": _len,
            "list": self._list,
            "max": self._max,
            "min": self._min,
            "round": _round,
            "set": self._set,
            "sorted": self._sorted,
            "str": _str,
            "sum": self._sum,
            "tuple": self._tuple,
        }

    def weigh(self, value: object, factor: int = 1) -> None:
        """Pay for visiting the value and all that is in it, `factor` times."""
        spend = self._effort.spend
        if type(value) in _SCALARS:
            return spend(factor)
        stack: list[object] = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                spend(factor * (1 + len(item) // 64))
                continue
            items: Iterable[object]
            if isinstance(item, dict):
                items = cast("dict[object, object]", item).values()
            elif isinstance(item, list | tuple | set | MappingView):
                items = cast("Iterable[object]", item)
            else:
                spend(factor)
                continue
            spend(factor * (_CONTAINER_COST + len(cast(Sized, item))))
            stack.extend(part for part in items if type(part) not in _SCALARS)
        return None

    # Operators.

    def _compared(self, apply: Callable[..., object]) -> Binary:
        def compared(a: object, b: object) -> object:
            self.weigh(a)
            self.weigh(b)
            return apply(a, b)

        return compared

    def _reckoned(self, apply: Callable[..., object]) -> Binary:
        def reckoned(a: object, b: object) -> object:
            if not _both_sets(a, b):
                return apply(_number(a), _number(b))
            self.weigh(a)
            self.weigh(b)
            return apply(a, b)

        return reckoned

    def _add(self, a: object, b: object) -> object:
        if _is_sequence(a) and type(a) is type(b):
            left, right = cast("list[object]", a), cast("list[object]", b)
            self._build(len(left) + len(right))
            return left + right
        return _number(a) + _number(b)

    def _multiply(self, a: object, b: object) -> object:
        if _is_sequence(b):
            a, b = b, a
        if _is_sequence(a):
            sequence, times = cast("list[object]", a), _number(b)
            if isinstance(times, float):
                raise ExpressionError(f"a text cannot be repeated {times!r} times")
            self._build(len(sequence) * max(times, 0))
            return sequence * times
        return _number(a) * _number(b)

    def _contains(self, a: object, b: object) -> bool:
        if isinstance(b, str):
            self._effort.spend(len(b) // 32)
        elif not isinstance(b, dict | set):
            self.weigh(b)
        self.weigh(a)
        return operator.contains(cast("list[object]", b), a)

    def _lacks(self, a: object, b: object) -> bool:
        return not self._contains(a, b)

    def _build(self, length: int) -> None:
        if length > MAX_LENGTH:
            raise ExpressionError(f"an expression builds at most {MAX_LENGTH} elements, not {length}")
        self._effort.spend(length)

    # Functions.

    def _elements(self, value: object) -> "list[object]":
        """The value itself, of whatever sized kind, paid for element by element."""
        self._effort.spend(_len(value))
        return cast("list[object]", value)

    def _comparable(self, values: tuple[object, ...]) -> "list[float]":
        """What min, max and sorted look at, paid for as sorting would cost."""
        value = values[0] if len(values) == 1 else list(values)
        self.weigh(value, factor=_len(value).bit_length() + 1)
        return cast("list[float]", value)

    def _all(self, value: object) -> bool:
        return all(self._elements(value))

    def _any(self, value: object) -> bool:
        return any(self._elements(value))

    def _list(self, value: object = ()) -> "list[object]":
        return list(self._elements(value))

    def _tuple(self, value: object = ()) -> "tuple[object, ...]":
        return tuple(self._elements(value))

    def _set(self, value: object = ()) -> "set[object]":
        elements = self._elements(value)
        if len(elements) > MAX_SET:
            raise ExpressionError(f"a set has at most {MAX_SET} elements here, not {len(elements)}")
        return set(elements)

    def _sum(self, value: object) -> int | float:
        total: int | float = 0
        for item in self._elements(value):
            total = _number(total + _number(item))
        return total

    def _max(self, *values: object, default: object = _NONE) -> object:
        found = self._comparable(values)
        return max(found) if default is _NONE or _len(found) else default

    def _min(self, *values: object, default: object = _NONE) -> object:
        found = self._comparable(values)
        return min(found) if default is _NONE or _len(found) else default

    def _sorted(self, value: object, *, reverse: object = False) -> "list[float]":
        return sorted(self._comparable((value,)), reverse=bool(reverse))


def _named(name: str) -> Callable[..., object]:
    return cast("Callable[..., object]", getattr(operator, name))


def _number(value: object) -> int | float:
    if not isinstance(value, int | float):
        raise ExpressionError(f"a number is wanted, not {type(value).__name__}")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ExpressionError(f"a number has at most {MAX_BITS} bits here")
    return value


def _negative(value: object) -> int | float:
    return -_number(value)


def _absolute(value: object) -> int | float:
    return abs(_number(value))


def _power(a: object, b: object) -> int | float:
    base, exponent = _number(a), _number(b)
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if max(base.bit_length(), 1) * exponent > MAX_BITS:
            raise ExpressionError(f"a power has at most {MAX_BITS} bits")
        return int(base**exponent)
    return math.pow(base, exponent)


def _shift_left(a: object, b: object) -> int:
    number, places = _shiftable(a, b)
    return number << places


def _shift_right(a: object, b: object) -> int:
    number, places = _shiftable(a, b)
    return number >> places


def _shiftable(a: object, b: object) -> tuple[int, int]:
    number, places = _number(a), _number(b)
    if isinstance(number, float) or isinstance(places, float) or places > MAX_BITS:
        raise ExpressionError(f"shifts are of integers, by at most {MAX_BITS}")
    return number, places


def _is_sequence(value: object) -> bool:
    return isinstance(value, str | list | tuple)


def _both_sets(a: object, b: object) -> bool:
    return isinstance(a, set) and isinstance(b, set)


def _len(value: object) -> int:
    return len(cast(Sized, value))


def _isinstance(value: object, kinds: "type | tuple[type, ...]") -> bool:
    return isinstance(value, kinds)


def _numeral(value: object) -> int | float | str:
    if not isinstance(value, str):
        return _number(value)
    if len(value) > MAX_DIGITS:
        raise ExpressionError(f"a text read as a number has at most {MAX_DIGITS} characters")
    return value


def _int(value: object = 0) -> int:
    return int(_numeral(value))


def _float(value: object = 0) -> float:
    return float(_numeral(value))


def _round(value: object, ndigits: object = None) -> int | float:
    number = _number(value)
    if ndigits is None:
        return round(number)
    if not isinstance(ndigits, int) or abs(ndigits) > MAX_DIGITS:
        raise ExpressionError(f"numbers are rounded to at most {MAX_DIGITS} digits")
    return round(number, ndigits)


def _str(value: object = "") -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "None"
    return str(_number(value))
