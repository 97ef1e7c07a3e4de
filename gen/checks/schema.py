"""The check of `ask.schema`: the answer is JSON and fits the schema that its teacher was asked for. Score: 1 if it
does, else 0.
"""

from stillhouse.gen.checks.base import Answer, CheckResult, Row
from stillhouse.gen.checks.json_schema import fits
from stillhouse.schemas.asked_schema import AskedSchema
from stillhouse.schemas.json_schema import schema_validator


class Schema:
    """Judges like the check `json_schema`, each answer by its own schema."""

    def __init__(self, settings: AskedSchema) -> None:
        self._validators = {key: schema_validator(document) for key, document in settings.by_key.items()}

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        if answer.schema_key is None:
            return CheckResult(True, None, "no schema to fit")
        return fits(self._validators[answer.schema_key], answer.text)
