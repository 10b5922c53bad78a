"""The setting `traces.columns`: which column of a table, path in it or constant each column of TRACES is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.errors import nearest_first
from backfill_spark.schema import BIGINT, DOUBLE, STRING
from backfill_spark.traces.sources.origin import CANONICAL, COMPUTED, Origin, of_field

Columns = Mapping[str, Any]
"""Column of TRACES: the name of a column, or a mapping with one of column, path, constant, and maybe unit."""
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_CONSTANTS: Mapping[type, T.DataType] = {str: STRING, bool: T.BooleanType(), int: BIGINT, float: DOUBLE}


class MappingError(ValueError):
    """An entry that does not fit the table, in a sentence."""


def mapped(columns: Columns, found: T.StructType) -> tuple[dict[str, Origin], list[str]]:
    """Return the origin of each column that is mapped, and a sentence for each entry that does not fit."""
    origins, problems = {}, []
    for name, entry in columns.items():
        if name == COMPUTED:
            problems.append(f"{COMPUTED} is always computed from request_time; leave it out.")
        elif name not in CANONICAL:
            problems.append(f"{name!r} is no trace column; did you mean {nearest_first(name, CANONICAL)[0]!r}?")
        else:
            try:
                origins[name] = _origin(name, entry, found)
            except MappingError as error:
                problems.append(f"{name}: {error}")
    return origins, problems


def _origin(name: str, entry: Any, found: T.StructType) -> Origin:
    given = {"column": entry} if isinstance(entry, str) else {k: v for k, v in dict(entry).items() if v is not None}
    unit = given.pop("unit", "")
    if unit and name != "request_time":
        raise MappingError("a unit is for request_time only; leave it out.")
    (kind, value), *_ = given.items()
    if kind == "constant":
        told = "a constant" if name == "request_time" else f"constant {value!r}"
        return Origin(lambda: F.lit(value), _CONSTANTS[type(value)], told, unit)
    steps = [value] if kind == "column" else steps_of(value)
    origin = _of_column(str(steps[0]), found)
    return follow(origin, steps[1:], told=_shown(steps), unit=unit)


def steps_of(path: str | Sequence[str | int]) -> list[str | int]:
    """Return the steps of a path: `a.b[0].c`, or a list of them where a name has dots."""
    if not isinstance(path, str):
        return list(path)
    return [int(index) if index else name for name, index in _STEP.findall(path)]


def _of_column(name: str, found: T.StructType) -> Origin:
    for field in found.fields:
        if field.name == name:
            return of_field(field)
    nearest = nearest_first(name, found.fieldNames())[:5]
    raise MappingError(f"the column {name!r} is not there; the nearest are {nearest}.")


def follow(origin: Origin, steps: Sequence[str | int], *, told: str, unit: str = "") -> Origin:
    """Return what lies at a path below a column: fields of structs, keys of maps, places of lists, JSON, VARIANT.

    Raises:
        MappingError: a struct has no such field, or a value of the type has nothing below it.
    """
    kind, ways = origin.type, list[Callable[[Column], Column]]()
    for at, step in enumerate(steps):
        if isinstance(kind, T.StructType):
            if step not in kind.fieldNames():
                nearest = nearest_first(str(step), kind.fieldNames())[:5]
                raise MappingError(f"there is no field {step!r} at {told!r}; the nearest are {nearest}.")
            ways.append(partial(_field_of, str(step)))
            kind = kind[str(step)].dataType
        elif isinstance(kind, T.MapType) and isinstance(kind.keyType, T.StringType):
            ways.append(partial(_value_of, str(step)))
            kind = kind.valueType
        elif isinstance(kind, T.ArrayType) and isinstance(step, int):
            ways.append(partial(_item_of, step))
            kind = kind.elementType
        elif isinstance(kind, T.StringType | T.VariantType):
            of_json = _of_variant if isinstance(kind, T.VariantType) else _of_json
            ways.append(partial(of_json, _json_path(steps[at:], told)))
            break
        else:
            raise MappingError(f"{told!r} leads into a {kind.simpleString().upper()}, which has no {step!r} in it.")
    return Origin(lambda: reduce(lambda value, way: way(value), ways, origin.value), kind, told, unit)


def _field_of(name: str, value: Column) -> Column:
    return value.getField(name)


def _value_of(key: str, value: Column) -> Column:
    return F.try_element_at(value, F.lit(key))


def _item_of(place: int, value: Column) -> Column:
    return F.get(value, F.lit(place))


def _of_json(path: str, value: Column) -> Column:
    return F.get_json_object(value, path)


def _of_variant(path: str, value: Column) -> Column:
    return F.try_variant_get(value, path, "variant")


def _json_path(steps: Sequence[str | int], told: str) -> str:
    if any("'" in str(step) for step in steps):
        raise MappingError(f"{told!r} has a quote in a key of a JSON text, which no path can name.")
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f"['{step}']" for step in steps)


def _shown(steps: Sequence[str | int]) -> str:
    first, *others = steps
    return str(first) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in others)
