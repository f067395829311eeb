"""Gate expressions: Python lambdas from a file nobody has to trust, evaluated without ever running Python.

Two fences. `parse_expression` admits only a short list of syntax, names and methods, so that what is refused
is refused when the gate is read. `evaluate` runs what is left on simpleeval with our own operators and
functions, each paying for its work out of one `Effort`, so that neither time nor memory can run away.
"""

import ast
import importlib
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol, cast

import msgspec

from mcpkeep.protocol.workflow.arithmetic import MAX_BITS, Arithmetic, Effort, ExpressionError

__all__ = ["Effort", "Expression", "ExpressionError", "evaluate", "parse_expression"]

MAX_SOURCE = 2_000
"""Characters of one expression."""
MAX_NODES = 300
MAX_DEPTH = 32

_NODE_COST = 20
"""In units of Effort: evaluating one node takes about as long as visiting this many elements."""
_METHODS: dict[str, type] = {
    "get": dict,
    "keys": dict,
    "values": dict,
    "items": dict,
    "startswith": str,
    "endswith": str,
}
_TYPES: dict[str, type] = {
    "bool": bool,
    "dict": dict,
    "float": float,
    "int": int,
    "list": list,
    "set": set,
    "str": str,
    "tuple": tuple,
}
_FUNCTIONS = frozenset(Arithmetic(Effort()).functions())
_KEYWORDS = {"min": {"default"}, "max": {"default"}, "sorted": {"reverse"}, "round": {"ndigits"}}
_SYNTAX: tuple[type[ast.AST], ...] = (
    *(ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.IfExp),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow),
    *(ast.LShift, ast.RShift, ast.BitAnd, ast.BitOr, ast.BitXor),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot),
    *(ast.Constant, ast.Name, ast.Load, ast.Store, ast.Subscript, ast.Slice, ast.Call, ast.keyword),
    *(ast.Attribute, ast.List, ast.Tuple, ast.Set, ast.ListComp, ast.GeneratorExp, ast.comprehension),
)


class Expression(msgspec.Struct, frozen=True):
    """A lambda that `parse_expression` found harmless in form."""

    source: str
    parameters: tuple[str, ...]
    """The lambda's parameter names, in order; at least one."""


def parse_expression(source: str) -> Expression:
    """Read the text of a lambda such as `lambda x: len(x) > 0`; nothing is evaluated.

    Raises ExpressionError for anything that gates may not use, and says what that is.
    """
    arguments, _ = _parsed(source)
    return Expression(source=source, parameters=arguments)


def evaluate(
    expression: Expression, arguments: Mapping[str, object], *, effort: Effort | None = None
) -> object:
    """Give the lambda's value for these arguments, which are JSON values and are never changed.

    Raises ExpressionError where Python would have raised, and where the work exceeds `effort`.
    """
    names, body = _parsed(expression.source)
    if missing := [name for name in names if name not in arguments]:
        raise ExpressionError(f"{expression.source!r} was given no {missing[0]!r}")
    evaluator = _evaluator({name: arguments[name] for name in names}, effort or Effort())
    try:
        return evaluator.eval(expression.source, previously_parsed=body)
    except _simpleeval_error() as error:
        raise ExpressionError(_short(error)) from None
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ExpressionError(f"{type(error).__name__}: {_short(error)}") from None
    except (RecursionError, MemoryError) as error:
        raise ExpressionError("the evidence is nested too deep for this expression") from error


def _short(error: BaseException) -> str:
    text = str(error)
    return text if len(text) <= 200 else f"{text[:200]}..."


# The first fence: syntax.


@lru_cache(maxsize=512)
def _parsed(source: str) -> tuple[tuple[str, ...], ast.expr]:
    if len(source) > MAX_SOURCE:
        raise ExpressionError(f"an expression has at most {MAX_SOURCE} characters, this one {len(source)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in foreign text is no business of our stderr
            tree = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ExpressionError(f"{source!r} is not a lambda: {_short(error)}") from None
    except (RecursionError, MemoryError):
        raise ExpressionError("the expression is nested too deep; write it flatter") from None
    if not isinstance(tree, ast.Lambda):
        raise ExpressionError(f"{source!r} is not a lambda; write 'lambda x: ...'")
    arguments = tree.args
    parameters = tuple(argument.arg for argument in arguments.args)
    if (
        not parameters
        or arguments.posonlyargs
        or arguments.kwonlyargs
        or arguments.vararg
        or arguments.kwarg
        or arguments.defaults
    ):
        raise ExpressionError(f"{source!r} must take plain parameters, at least one, without defaults")
    _inspect(tree.body, parameters)
    return parameters, tree.body


def _inspect(body: ast.expr, parameters: tuple[str, ...]) -> None:
    """Walk the tree without recursion, and refuse whatever is not on the lists above."""
    known = set(parameters)
    loads: list[str] = []
    called: set[int] = set()
    count = 0
    stack: list[tuple[ast.AST, int]] = [(body, 1)]
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise ExpressionError(f"at most {MAX_NODES} parts, {MAX_DEPTH} deep, are allowed; split it up")
        if not isinstance(node, _SYNTAX):
            raise ExpressionError(f"{type(node).__name__} is not allowed in a gate's expression")
        match node:
            case ast.Constant(value=value):
                _inspect_constant(value)
            case ast.Name(id=name, ctx=ast.Store()):
                known.add(name)
            case ast.Name(id=name):
                if id(node) not in called:
                    loads.append(name)
            case ast.Attribute(attr=attr):
                if id(node) not in called or attr not in _METHODS:
                    raise ExpressionError(f"{attr!r} is not allowed; methods are {', '.join(_METHODS)}")
            case ast.Call():
                called.add(id(node.func))
                _inspect_call(node, called)
            case ast.comprehension(is_async=1):
                raise ExpressionError("async is not allowed in a gate's expression")
            case _:
                pass
        stack.extend((child, depth + 1) for child in ast.iter_child_nodes(node))
    for name in known:
        if name in _FUNCTIONS or name in _TYPES or name.startswith("__"):
            raise ExpressionError(f"{name!r} cannot be the name of a variable here")
    for name in loads:
        if name not in known:
            raise ExpressionError(f"{name!r} is not known; functions must be called, and are {_listed()}")


def _inspect_constant(value: object) -> None:
    match value:
        case None | bool() | float() | str():
            return
        case int() if value.bit_length() <= MAX_BITS:
            return
        case int():
            raise ExpressionError(f"a number has at most {MAX_BITS} bits here")
        case _:
            raise ExpressionError(f"a constant of type {type(value).__name__} is not allowed")


def _inspect_call(node: ast.Call, called: set[int]) -> None:
    match node.func:
        case ast.Attribute():
            allowed: set[str] = set()
        case ast.Name(id=name) if name in _FUNCTIONS:
            allowed = _KEYWORDS.get(name, set())
            if name == "isinstance":
                _inspect_isinstance(node, called)
        case ast.Name(id=name):
            raise ExpressionError(f"function {name!r} is not allowed; there are {_listed()}")
        case _:
            raise ExpressionError("only functions and methods by name can be called")
    for keyword in node.keywords:
        if keyword.arg not in allowed:
            raise ExpressionError(f"keyword argument {keyword.arg!r} is not allowed")


def _inspect_isinstance(node: ast.Call, called: set[int]) -> None:
    kinds = node.args[1] if len(node.args) == 2 else None
    for kind in kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]:
        if not isinstance(kind, ast.Name) or kind.id not in _TYPES:
            raise ExpressionError(f"isinstance takes a value and a type; types are {', '.join(_TYPES)}")
        called.add(id(kind))


def _listed() -> str:
    return ", ".join(sorted(_FUNCTIONS))


# The second fence: values.


class _Evaluator(Protocol):
    """The part of simpleeval used here; the package has no types of its own."""

    nodes: dict[type[ast.AST], Callable[[ast.AST], object]]
    functions: dict[str, Callable[..., object]]
    ATTR_INDEX_FALLBACK: bool
    _check_disallowed_items: Callable[[object], None]

    def eval(self, expr: str, previously_parsed: ast.AST) -> object: ...


@lru_cache(maxsize=1)
def _simpleeval_error() -> type[Exception]:
    return cast("type[Exception]", importlib.import_module("simpleeval").InvalidExpression)


def _evaluator(names: dict[str, object], effort: Effort) -> _Evaluator:
    arithmetic = Arithmetic(effort)
    made = cast(
        _Evaluator,
        importlib.import_module("simpleeval").EvalWithCompoundTypes(
            operators=arithmetic.operators(),
            names={**_TYPES, **names},
            allowed_attrs={kind: {m for m, of in _METHODS.items() if of is kind} for kind in (dict, str)},
        ),
    )
    made.functions = arithmetic.functions()  # it adds its own to what it is given, so the table is replaced
    made.ATTR_INDEX_FALLBACK = False
    # It would search every value for modules and functions, at every step: 10 MB of evidence, 300 times.
    # No such value can exist here: evidence is JSON, and names of functions are refused as values.
    made._check_disallowed_items = _nothing  # pyright: ignore[reportPrivateUsage]
    made.nodes = {kind: _paid(made.nodes[kind], effort) for kind in made.nodes if kind in _SYNTAX}
    return made


def _paid(handler: Callable[[ast.AST], object], effort: Effort) -> Callable[[ast.AST], object]:
    def paid(node: ast.AST) -> object:
        effort.spend(_NODE_COST)
        value = handler(node)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            effort.spend(len(cast("list[object]", value)) // 8)
        return value

    return paid


def _nothing(value: object) -> None:
    del value
