"""The report in a real Chromium: it asks no network, nothing in it runs, and it fits a phone, the dark and paper."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import answer, body_of, chunk_of, sealed
from playwright.sync_api import Browser, Page, sync_playwright

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.views.report import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
HOSTILE = '<script>document.title="owned"</script><img src="http://127.0.0.1:9/x" onerror="document.title=\'owned\'">'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: scripts/setup --all"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, "--disable-component-update", "--disable-sync"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a dataset with hostile and long cells."""
    root = tmp_path_factory.mktemp("report")
    rows = [{"id": f"q{n}", "question": f"{HOSTILE} {n} {'w' * 500}"} for n in range(6)]
    recipe, held = chunk_of(root, rows)
    for ordinal in range(6):
        body = body_of(f"{HOSTILE} {ordinal}", finish="stop" if ordinal else "length")
        answer(held, ordinal, body, at=1000.0 + 20 * ordinal)
    sealed(recipe, held)
    path = root / "report.html"
    path.write_text(report(open_dataset(recipe)), encoding="utf-8")
    return path


def opened(browser: Browser, path: Path, *, width: int = 1280, scheme: str = "light") -> tuple[Page, list[str]]:
    """The page, and what it asked for or complained of."""
    dark = scheme == "dark"
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("request", lambda request: seen.append(request.url))
    page.goto(path.as_uri())
    return page, [each for each in seen if each != path.as_uri()]


def test_page_is_self_contained_and_inert(browser: Browser, page_file: Path) -> None:
    """No request except the page's own, no policy violation, and no script from a cell ran."""
    page, seen = opened(browser, page_file)
    assert seen == []
    assert page.title() == "test · Stillhouse"
    assert page.locator("svg").count() >= 5
    assert page.locator("figure.plot [role=img][aria-label]").count() == page.locator("svg").count()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_fits_every_width(browser: Browser, page_file: Path, width: int) -> None:
    """Nothing overflows to the side, however long a word is."""
    page, _ = opened(browser, page_file, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_page_has_light_and_dark(browser: Browser, page_file: Path) -> None:
    """The page and its plots take their colours from the scheme."""
    colours = []
    for scheme in ("light", "dark"):
        page, _ = opened(browser, page_file, scheme=scheme)
        style = "e => getComputedStyle(e)"
        ground = page.locator("body").evaluate(f"{style}.backgroundColor")
        text = page.locator("svg text").first.evaluate(f"{style}.fill")
        colours.append((ground, text))
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_the_page_can_be_printed(browser: Browser, page_file: Path) -> None:
    """On few pages and on white, even from a dark screen."""
    page, _ = opened(browser, page_file, scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"
    pdf = page.pdf(format="A4")
    assert 0 < pdf.count(b"/Type /Page\n") <= 6


def test_rows_can_be_opened_with_the_keyboard(browser: Browser, page_file: Path) -> None:
    """Folded content can be opened without a mouse."""
    page, _ = opened(browser, page_file)
    folded = page.locator("details.sample:not([open]) > summary").first
    before = page.locator("details.sample[open]").count()
    folded.focus()
    page.keyboard.press("Enter")
    assert page.locator("details.sample[open]").count() == before + 1
