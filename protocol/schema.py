"""JSON Schema of a tool's arguments, from the msgspec type that decodes them: one source of truth."""

from typing import cast

import msgspec

__all__ = ["flat_schema"]


def flat_schema(type_: type[msgspec.Struct]) -> dict[str, object]:
    """One object without `$ref`: model APIs refuse references and unions at the top.

    Raises:
        ValueError: a field's type needs a definition of its own.
    """
    schema = msgspec.json.schema(type_)
    definitions = cast("dict[str, dict[str, object]]", schema["$defs"])
    if len(definitions) != 1:
        raise ValueError(f"{type_.__name__} is not flat: {sorted(definitions)}")
    (flat,) = definitions.values()
    return {key: value for key, value in flat.items() if key != "title"}
