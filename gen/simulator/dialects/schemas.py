"""Schemas of answers, refused as the providers refuse what they do not accept."""

from collections.abc import Mapping
from typing import Any

from stillhouse.gen.simulator.dialects.base import BadRequest
from stillhouse.schemas.schema_dialects import SchemaDialect, is_object, nodes, strict_fault


def openai_schema(form: Any, *, param: str) -> Mapping[str, Any] | None:
    """The schema in `response_format.json_schema`, or in `text.format`; None for another format.

    Raises:
        BadRequest: it has no name, does not describe an object, or is `strict` and breaks the rules for that.
    """
    if form is None:
        return None
    if not isinstance(form, Mapping) or not isinstance(form.get("name"), str) or not form["name"]:
        raise BadRequest(f"Missing required parameter: '{param}.name'.", param=f"{param}.name")
    schema = form.get("schema")
    if not isinstance(schema, Mapping):
        raise BadRequest(f"Missing required parameter: '{param}.schema'.", param=f"{param}.schema")
    if form.get("strict") and (fault := strict_fault(schema)) is not None:
        raise BadRequest(f"Invalid schema for response_format '{form['name']}': {fault}.", param=param)
    return schema


def checked(schema: Any, dialect: SchemaDialect, *, param: str) -> Mapping[str, Any] | None:
    """The schema of an answer.

    Raises:
        BadRequest: it has a keyword that the API does not accept, or an object that is not closed.
    """
    if schema is None:
        return None
    if not isinstance(schema, Mapping):
        raise BadRequest(f"{param}: Input should be a valid dictionary", param=param)
    for _, node in nodes(schema):
        kind = node.get("type", "object")
        if unknown := sorted(node.keys() - dialect.keywords):
            raise BadRequest(f"{param}: For '{kind}' type, property '{unknown[0]}' is not supported", param=param)
        if dialect.is_closed and is_object(node) and node.get("additionalProperties") is not False:
            message = f"{param}: For 'object' type, 'additionalProperties' must be explicitly set to false"
            raise BadRequest(message, param=param)
    return schema
