"""Reads the docstrings below a model's fields, which the recipe's JSON Schema and the messages to users quote.

Pydantic can read them too, but only as the models are imported, in every process of a run: a third of that time.
"""

import ast
import inspect
from itertools import pairwise

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstrings of a model's fields, inherited ones too, by the names that recipes use."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            docs |= _below_fields(cls)
    return {info.alias or name: docs[name] for name, info in model.model_fields.items() if name in docs}


def _below_fields(cls: type[BaseModel]) -> dict[str, str]:
    docs: dict[str, str] = {}
    try:
        source = inspect.getsource(cls)
    except OSError:  # installed without its sources
        return docs
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for field, following in pairwise(definition.body):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = inspect.cleandoc(text)
    return docs


class DocumentedSchema(GenerateJsonSchema):
    """A JSON Schema whose properties are described by the fields' docstrings."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """See `GenerateJsonSchema`."""
        document = super().model_schema(schema)
        for name, text in field_docs(schema["cls"]).items():
            document["properties"][name].setdefault("description", text)
        return document
