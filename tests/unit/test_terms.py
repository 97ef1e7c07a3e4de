"""Terms of teachers: refused where undeclared or prohibited, filled in where known, carried along as obligations."""

from typing import Any

import pytest
from pydantic import ValidationError

from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.terms import Terms
from stillhouse.schemas.terms_notes import terms_notes

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"


def teacher(model: str, *, url: str = "http://vllm-0:8000/v1", **fields: Any) -> Teacher:
    """A teacher of that model behind that URL."""
    return Teacher.model_validate({"name": "t", "base_url": url, "model": model} | fields)


def refusal(model: str, **fields: Any) -> str:
    """Why a teacher is refused."""
    with pytest.raises(ValidationError) as caught:
        teacher(model, **fields)
    return str(caught.value)


def terms_of(model: str, **fields: Any) -> Terms:
    """The terms a teacher ends up with."""
    terms = teacher(model, **fields).terms
    assert terms is not None
    return terms


@pytest.mark.parametrize("model", ["m", "qwen3", "Qwen/Qwen3-Max", "deepseek-ai/DeepSeek-R2", "google/gemma-3-27b-it"])
def test_undeclared_terms_are_refused(model: str) -> None:
    """A name that is only near a known one is not known."""
    assert "`terms` is missing" in refusal(model)


@pytest.mark.parametrize(
    ("model", "license"),
    [
        ("deepseek-ai/DeepSeek-R1", "MIT"),
        ("deepseek-ai/DeepSeek-R1-0528", "MIT"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Apache-2.0"),
        ("openai/gpt-oss-120b", "Apache-2.0"),
    ],
)
def test_known_licences_are_filled_in_by_name(model: str, license: str) -> None:
    """The recipe may leave out what the model's name says for certain; the record says who declared it."""
    terms = terms_of(model)
    assert (terms.license, terms.training_use, terms.declared_by) == (license, "permitted", "known-licence")
    assert terms.seen_on is not None


@pytest.mark.parametrize("model", [LLAMA, "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "meta-llama/Llama-4-Scout-17B"])
def test_llama_brings_its_obligations(model: str) -> None:
    """A model trained on its answers has to be named for it."""
    terms = terms_of(model)
    assert terms.training_use == "permitted-with-obligations"
    assert any('"Built with Llama"' in obligation for obligation in terms.obligations)


def test_declared_terms_stay_and_take_on_known_obligations() -> None:
    """What the user wrote comes first; that it obliges can't be left out."""
    own = {"license": "ours", "training_use": "permitted", "obligations": ["Thank them."]}
    terms = terms_of(LLAMA, terms=own)
    assert (terms.license, terms.declared_by) == ("ours", "user")
    assert terms.training_use == "permitted-with-obligations"
    assert terms.obligations[0] == "Thank them."
    assert len(terms.obligations) == 1 + len(terms_of(LLAMA).obligations)
    assert terms_of(LLAMA, terms=terms.model_dump(mode="json")) == terms


@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("meta-llama/Llama-2-70b-chat-hf", "http://vllm-0:8000/v1"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "http://vllm-0:8000/v1"),
        ("gpt-4o", "https://api.openai.com/v1"),
        ("openai/gpt-oss-20b", "https://api.openai.com/v1"),
        ("claude", "https://api.anthropic.com/v1"),
    ],
)
def test_known_prohibitions_are_refused_whatever_is_declared(model: str, url: str) -> None:
    """Declaring that it is permitted doesn't let anybody train on the answers."""
    assert "training on its answers is prohibited by" in refusal(model, url=url)
    assert "training on its answers is prohibited by" in refusal(model, url=url, terms={"training_use": "permitted"})


def test_declared_prohibition_is_refused() -> None:
    """Even if it is the user who declares it."""
    assert "prohibit training on the answers" in refusal("m", terms={"training_use": "prohibited"})


def test_authorisation_is_kept() -> None:
    """A written permission opens a closed teacher, and its reference stays in the terms."""
    given = {"training_use": "by-authorisation", "authorisation": "contract 7, 2026-10-01"}
    terms = terms_of("gpt-4o", url="https://api.openai.com/v1", terms=given)
    assert terms.model_dump(mode="json")["authorisation"] == "contract 7, 2026-10-01"
    assert "needs `authorisation`" in refusal("m", terms={"training_use": "by-authorisation"})


def test_an_authorisation_must_match_the_terms() -> None:
    """It permits what the terms don't."""
    said = refusal("m", terms={"training_use": "permitted", "authorisation": "letter 7"})
    assert "`authorisation` goes with `training_use: by-authorisation`" in said


@pytest.mark.parametrize(
    ("model", "license", "noted"),
    [("Qwen/Qwen3-8B", "MIT", True), ("Qwen/Qwen3-8B", "apache 2.0", False), (LLAMA, "MIT", True), ("m", "MIT", False)],
)
def test_a_licence_known_to_differ_is_noted(model: str, license: str, noted: bool) -> None:
    """The recipe's holds, as it does with prices."""
    own = teacher(model, terms={"training_use": "permitted", "license": license})
    assert own.terms is not None
    assert own.terms.license == license
    recipe = Recipe.model_validate(
        {"name": "n", "source": {"path": "p", "prompt": "q"}, "teachers": [own], "dataset": {"path": "d"}}
    )
    assert [f"(not {license})" in note for note in terms_notes(recipe)] == [True] * noted


def test_simulator_needs_no_terms() -> None:
    """Its answers are made up."""
    assert Teacher.model_validate({"name": "s", "api": "simulator"}).terms is None


@pytest.mark.parametrize(
    ("url", "model", "license"),
    [
        ("https://openrouter.ai/api/v1", "openai/gpt-5.1", "OpenAI Services Agreement"),
        ("https://openrouter.ai/api/v1", "google/gemini-3-pro", "Gemini API Additional Terms"),
        ("https://openrouter.ai/api/v1", "x-ai/grok-4", "xAI Enterprise Terms"),
        ("https://generativelanguage.googleapis.com", "gemini-3-pro", "Gemini API Additional Terms"),
        (
            "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1",
            "gemini-3-pro",
            "Gemini API Additional Terms",
        ),
        ("https://aiplatform.googleapis.com", "publishers/google/models/gemini-3-pro", "Gemini API Additional Terms"),
        ("https://aiplatform.eu.rep.googleapis.com", "gemini-3-pro", "Gemini API Additional Terms"),
    ],
)
def test_a_platform_serves_a_model_under_its_owner_s_terms(url: str, model: str, license: str) -> None:
    """With the same prohibition as at the owner's own host."""
    assert f"the {license}" in refusal(model, url=url)


def test_open_models_on_a_platform_keep_their_licence() -> None:
    """And what is not known there is undeclared."""
    assert terms_of("openai/gpt-oss-120b", url="https://openrouter.ai/api/v1").license == "Apache-2.0"
    assert "`terms` is missing" in refusal("llama-3", url="https://us-aiplatform.googleapis.com/v1")
