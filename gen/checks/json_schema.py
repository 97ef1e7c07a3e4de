"""`json_schema`: the answer is JSON that fits a schema. Score: 1 if it does, else 0."""

from typing import Any

import orjson

from stillhouse.gen.checks.base import MAX_DETAIL_CHARS, Answer, CheckResult, Row
from stillhouse.schemas.code_fence import without_fence
from stillhouse.schemas.json_schema import document_of, schema_validator
from stillhouse.schemas.json_schema_check import JsonSchemaCheck


class JsonSchema:
    """Reads the answer as JSON, without a code fence around it."""

    def __init__(self, settings: JsonSchemaCheck) -> None:
        self._validator = schema_validator(document_of(settings.fits))

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        return fits(self._validator, answer.text)


def fits(validator: Any, text: str) -> CheckResult:
    """The verdict of a schema's validator on a text."""
    try:
        value = orjson.loads(without_fence(text).encode("utf-8", "surrogatepass"))
    except orjson.JSONDecodeError as error:
        return CheckResult(False, 0.0, f"not JSON: {error}"[:MAX_DETAIL_CHARS])
    for fault in validator.iter_errors(value):
        at = "".join(f"/{part}" for part in fault.instance_path)
        return CheckResult(False, 0.0, f"{at or 'the answer'}: {fault.message}"[:MAX_DETAIL_CHARS])
    return CheckResult(True, 1.0, "fits")
