"""`json_schema`: the answer is JSON that fits a schema. Score: 1 if it does, else 0."""

import re

import orjson

from stillhouse.gen.checks.base import MAX_DETAIL_CHARS, Answer, CheckResult, Row
from stillhouse.schemas.checks import JsonSchemaCheck, schema_validator

_FENCE = re.compile(r"\s*```[A-Za-z]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)


class JsonSchema:
    """Reads the answer as JSON, without the code fence that may stand around it."""

    def __init__(self, settings: JsonSchemaCheck) -> None:
        self._validator = schema_validator(settings.document())

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        text = answer.text
        if fenced := _FENCE.fullmatch(text):
            text = fenced[1]
        try:
            value = orjson.loads(text.encode("utf-8", "surrogatepass"))
        except orjson.JSONDecodeError as error:
            return CheckResult(False, 0.0, f"not JSON: {error}"[:MAX_DETAIL_CHARS])
        for fault in self._validator.iter_errors(value):
            at = "".join(f"/{part}" for part in fault.instance_path)
            return CheckResult(False, 0.0, f"{at or 'the whole'}: {fault.message}"[:MAX_DETAIL_CHARS])
        return CheckResult(True, 1.0, "fits")
