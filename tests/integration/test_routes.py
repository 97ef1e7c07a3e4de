"""Everything between us and a teacher (proxies, certificates, names) is checked before anything is sent."""

from pathlib import Path
from typing import Any

import pytest
from builders import questions, recipe_of, write_source
from case_server import CaseServer, serving
from harness import run_in_process

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.proxies import proxy_for
from stillhouse.schemas.endpoint_url import is_host
from stillhouse.schemas.recipe import Recipe

TERMS = {"license": "MIT", "training_use": "permitted", "url": "http://x.local/y"}
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
TARGET = "http://127.0.0.1:18431/v1/chat/completions"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def chat_recipe(tmp_path: Path, url: str, **teacher: Any) -> Recipe:
    """A recipe over a few prompts with one teacher at the URL."""
    asked = {"name": "t", "api": "openai-chat", "base_url": url, "model": "made-up-8b", "terms": TERMS}
    return recipe_of(tmp_path, teachers=[asked | teacher], dataset={"prompts_per_shard": 4})


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("http://127.0.0.1:18450", "http://127.0.0.1:18450"),
        ("127.0.0.1:18450", "http://127.0.0.1:18450"),  # as curl takes it
        ("http://user:pass@proxy.local:8080/", "http://user:pass@proxy.local:8080"),
        ("", None),
    ],
)
def test_a_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, proxy: str | None) -> None:
    """With or without a scheme, as in case 62-bad-proxy; an empty variable doesn't count."""
    monkeypatch.setenv("http_proxy", value)
    assert proxy_for(TARGET) == proxy


@pytest.mark.parametrize("name", ["all_proxy", "ALL_PROXY"])
def test_all_proxy_alone_is_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Part (b) of case 35-proxies, in upper and lower case."""
    monkeypatch.setenv(name, "http://127.0.0.1:18450")
    assert proxy_for(TARGET) == "http://127.0.0.1:18450"


@pytest.mark.parametrize(
    ("value", "asked_directly"),
    [("127.0.0.0/8", True), ("10.0.0.0/8, 127.0.0.1", True), ("*", True), ("10.0.0.0/8,nonsense/99", False)],
)
def test_no_proxy_names_hosts_and_networks(monkeypatch: pytest.MonkeyPatch, value: str, asked_directly: bool) -> None:
    """`127.0.0.0/8` as well as names."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:18450")
    monkeypatch.setenv("NO_PROXY", value)
    assert (proxy_for(TARGET) is None) == asked_directly


@pytest.mark.parametrize(
    "value",
    [
        "socks://127.0.0.1:7891",
        "ftp://127.0.0.1:1",
        "http://127.0.0.1:port",
        "http://",
        "http://:8080",
        "http://a..b:1",
    ],
)
async def test_an_unusable_proxy_is_named_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Cases 35-proxies (a) and 62-bad-proxy: exit 2 with the variable's name, and nothing sealed as poison."""
    monkeypatch.setenv("http_proxy", value)
    write_source(tmp_path, questions(24))
    with pytest.raises(UsageError, match="http_proxy") as raised:
        await run_in_process(chat_recipe(tmp_path, "http://127.0.0.1:9/v1"))
    assert raised.value.exit_code == 2
    assert not list((tmp_path / "out").glob("data/**/*.parquet"))


async def test_unreadable_certificates_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad SSL_CERT_FILE: exit 2 with the variable's name."""
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(bad))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        HttpTransport().prepare([TARGET])


@pytest.mark.parametrize("url", [f"http://{'a' * 74}.local/v1", "http://teacher..local/v1", "http://.local/v1"])
def test_an_impossible_host_name_is_refused(tmp_path: Path, url: str) -> None:
    """Case 61-bad-host: the recipe says so, before anything runs."""
    with pytest.raises(ValueError, match="labels of 1 to 63 characters"):
        chat_recipe(tmp_path, url)


@pytest.mark.parametrize("host", ["a", "a.b.", "1.2.3.4", "::1", "my_host.local", "bücher.example", "a" * 63])
def test_a_resolvable_host_name_is_accepted(host: str) -> None:
    """Underscores and umlauts too."""
    assert is_host(host)


async def test_a_run_bypasses_the_proxy_for_a_network_in_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part (c) of case 35-proxies: the teacher is asked directly."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    write_source(tmp_path, questions(3))
    async with serving(CaseServer()) as server:
        summary = await run_in_process(chat_recipe(tmp_path, server.url))
    assert summary.records == 3
