"""The types that a recipe can give to a column of plain values."""

from typing import Literal, TypeAlias, get_args

ValueType: TypeAlias = Literal["string", "int64", "float64", "bool"]
VALUE_TYPES: tuple[ValueType, ...] = get_args(ValueType)
