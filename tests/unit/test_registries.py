"""Registries of what can be plugged in agree with the names that a recipe may use."""

from typing import get_args, get_type_hints

import pytest
from installs import ROOT
from pydantic import ValidationError

from stillhouse.gen.checks.registry import class_of
from stillhouse.gen.limits.shares import Resource
from stillhouse.gen.source.formats.registry import FORMATS, SUPPORTED
from stillhouse.gen.teachers.protocols import PROTOCOLS
from stillhouse.gen.teachers.protocols.profiles import PROFILES
from stillhouse.gen.teachers.vocabulary import Signal
from stillhouse.gen.worker.verdicts import RULES
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.asked_schema import SCHEMA_CHECK, AskedSchema
from stillhouse.schemas.checks import Check
from stillhouse.schemas.columns import VALUES
from stillhouse.schemas.completion import Completion, FinishReason
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.record import RejectReason
from stillhouse.schemas.teacher import TEACHER_APIS, ProfileName, Teacher
from stillhouse.schemas.value_types import VALUE_TYPES


def test_each_api_of_a_recipe_is_a_registered_protocol() -> None:
    """And no protocol is without a name that a recipe may use."""
    assert set(TEACHER_APIS) == set(PROTOCOLS)


def test_each_profile_of_a_recipe_is_registered() -> None:
    """Apart from `auto`, which stands for the host's profile."""
    assert {"auto", *PROFILES} == set(get_args(ProfileName))


def test_no_host_belongs_to_two_profiles() -> None:
    """Otherwise the order in a table would decide how it is asked."""
    hosts = [host for profile in PROFILES.values() for host in profile.hosts]
    assert len(hosts) == len(set(hosts))


def test_each_protocols_error_codes_have_a_known_meaning() -> None:
    """A word for a signal or limit that nothing looks for would never be read."""
    terms = {"training_use": "permitted"}
    behind_url = {"base_url": "http://t/v1", "model": "m", "terms": terms, "api_key": "env:KEY"}
    for api, protocol in PROTOCOLS.items():
        fields = {"name": "t", "api": api} | ({} if api == "simulator" else behind_url)
        errors = protocol(Teacher.model_validate(fields), Ask()).errors
        assert {*errors.codes, *errors.families, *errors.phrases} <= set(get_args(Signal))
        assert {each.resource for each in errors.limits} <= set(get_args(Resource))
        assert all(word == word.lower() for words in errors.codes.values() for word in words)


def test_each_check_of_a_recipe_has_a_class() -> None:
    """The class is found by the check's name, and takes the settings that a recipe has under that name."""
    files = {path.stem.removesuffix("_check") for path in (ROOT / "schemas").glob("*_check.py")}
    assert files == set(Check.model_fields)
    settings = {kind: get_args(field.annotation)[0] for kind, field in Check.model_fields.items()}
    for kind, model in {**settings, SCHEMA_CHECK: AskedSchema}.items():
        judges = class_of(kind)
        assert callable(judges.judge)
        assert get_type_hints(judges.__init__)["settings"] is model


def test_each_type_of_a_kept_column_can_be_stored() -> None:
    """As a recipe declares it, and as the JSON Schema lists it."""
    assert set(VALUE_TYPES) == set(VALUES)


def test_each_finish_reason_has_a_rule() -> None:
    """An answer that ends in one that no rule knows would become a record."""
    kept = {"stop", "tool_calls"}
    for finish in get_args(FinishReason):
        reasons = [rule(Completion("four", finish, finish), Prompt("a", b"", (), ()), "beside") for rule in RULES]
        rejected = [reason for reason in reasons if reason is not None]
        assert bool(rejected) == (finish not in kept)
        assert set(rejected) <= set(get_args(RejectReason))


def test_the_built_in_teacher_has_no_profile() -> None:
    """It speaks one dialect."""
    with pytest.raises(ValidationError, match="works only with `api: openai-chat`"):
        Teacher.model_validate({"name": "t", "api": "simulator", "profile": "vllm"})


def test_each_format_is_named_where_files_are_refused() -> None:
    """A kind that is read and never named would not be found by anybody."""
    assert all(kind in SUPPORTED for kind in FORMATS if kind != ".tab")  # another suffix of .tsv
