"""The formats that a dataset can be exported to, one line each; their modules are in this folder."""

from collections.abc import Mapping
from dataclasses import dataclass

from stillhouse.gen.views.export.base import OfAnswers, OfPairs
from stillhouse.gen.views.export.messages_jsonl import messages_jsonl
from stillhouse.gen.views.export.sharegpt import sharegpt
from stillhouse.gen.views.export.trl_dpo import trl_dpo
from stillhouse.gen.views.export.trl_sft import trl_sft


@dataclass(frozen=True, slots=True)
class Single:
    """One row per record."""

    row: OfAnswers
    has_reasoning_field: bool = True


@dataclass(frozen=True, slots=True)
class Paired:
    """One row per pair of answers."""

    row: OfPairs
    has_reasoning_field: bool = True


FORMATS: Mapping[str, Single | Paired] = {
    "trl-sft": Single(trl_sft),
    "trl-dpo": Paired(trl_dpo),
    "messages-jsonl": Single(messages_jsonl),
    "sharegpt": Single(sharegpt, has_reasoning_field=False),
}
