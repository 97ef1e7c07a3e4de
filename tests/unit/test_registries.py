"""Registries of what can be plugged in agree with the names that a recipe may use."""

from typing import get_args

import pytest
from pydantic import ValidationError

from stillhouse.gen.teachers.protocols import PROTOCOLS
from stillhouse.gen.teachers.protocols.profiles import PROFILES
from stillhouse.schemas.teacher import TEACHER_APIS, ProfileName, Teacher


def test_each_api_of_a_recipe_is_a_registered_protocol() -> None:
    """And no protocol is without a name that a recipe may use."""
    assert set(TEACHER_APIS) == set(PROTOCOLS)


def test_each_profile_of_a_recipe_is_registered() -> None:
    """Beside `auto`, which stands for the one of the host."""
    assert {"auto", *PROFILES} == set(get_args(ProfileName))


def test_no_host_belongs_to_two_profiles() -> None:
    """Else the order in a table would decide how it is asked."""
    hosts = [host for profile in PROFILES.values() for host in profile.hosts]
    assert len(hosts) == len(set(hosts))


def test_the_built_in_teacher_has_no_profile() -> None:
    """It speaks one dialect."""
    with pytest.raises(ValidationError, match="goes with `api: openai-chat`"):
        Teacher.model_validate({"name": "t", "api": "simulator", "profile": "vllm"})
