"""The page in headless Chromium (Debian's package `chromium`): sorting, filter, taps, print. Skipped without either."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.networks import cnn
from support.plans import random_plan

from planc.plan.plan import CurvePoint
from planc.report.comparison import Comparison
from planc.report.page import write_comparison_page, write_page
from planc.report.row import Row

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]  # nothing is asked of a network that may not be there
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "plan.html"
    plan = random_plan(cnn(), 1)
    budget, step = plan.memory.budget_bytes, plan.prediction.step_ns
    sizes = zip((budget * 9 // 10, budget, budget * 11 // 10), (step + step // 9, step, step - step // 9), strict=True)
    curve = tuple(CurvePoint(size, ns) for size, ns in sizes)
    write_page(path, msgspec.structs.replace(plan, curve=curve), cnn().graph)
    return path


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(page_file.as_uri())
    yield page
    page.close()
    assert faults == []


def column(page: Any, number: int) -> list[str]:
    return [str(text) for text in page.locator(f".sortable tbody td:nth-child({number})").all_inner_texts()]


def test_a_column_is_sorted_with_the_keyboard_and_says_so(opened: Any) -> None:
    head = opened.locator(".sortable th").nth(0)
    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").focus()
    opened.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert column(opened, 1) == sorted(column(opened, 1), reverse=True)
    opened.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(opened, 1) == sorted(column(opened, 1))
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    sorts = [opened.locator(".sortable th").nth(i).get_attribute("aria-sort") for i in range(3)]
    assert sorts == ["none", "descending", "none"]


def test_an_empty_filter_says_so(opened: Any) -> None:
    opened.fill("#filter", "no such tensor")
    assert opened.locator("#nothing").inner_text() == "no tensor matches “no such tensor”"
    opened.fill("#filter", "")
    assert opened.locator("#nothing").is_hidden()


def test_every_row_lights_something_that_is_drawn(opened: Any) -> None:
    rows = opened.locator(".sortable tbody tr")
    for index in range(rows.count()):
        rows.nth(index).focus()
        opened.keyboard.press("Enter")
        lit = opened.locator(".slab svg rect.on")
        assert lit.count() > 0
        sizes = lit.evaluate_all("all => all.map(r => [+r.getAttribute('width'), +r.getAttribute('height')])")
        assert all(width > 0 and height > 0 for width, height in sizes)
        opened.keyboard.press("Enter")


def test_a_tap_on_a_phone_shows_the_name(browser: Any, page_file: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    canvas = page.locator(".engines .canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.02, box["y"] + box["height"] / 6)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "forward" in tip.inner_text()
    context.close()


def test_a_stall_tells_its_cause(opened: Any) -> None:
    tips = opened.locator(".stalls rect").evaluate_all("all => all.map(r => r.dataset.t)")
    assert tips
    assert all(tip.startswith("compute stands still\nbefore ") for tip in tips)
    assert any("waits for " in tip for tip in tips)


@pytest.mark.parametrize(("width", "media"), [(1280, "screen"), (390, "screen"), (718, "print")])
def test_no_text_is_cut_or_leaves_the_page(opened: Any, width: int, media: str) -> None:
    """718 pixels are what A4 has between its margins."""
    opened.set_viewport_size({"width": width, "height": 900})
    opened.emulate_media(media=media)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    wide = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent)"
    assert opened.locator(".bar div, .card, dd, h2").evaluate_all(wide) == []
    chart, frame = opened.locator("svg.curve").bounding_box(), opened.locator(".whatif").bounding_box()
    assert chart["x"] + chart["width"] <= frame["x"] + frame["width"] + 1
    for text in opened.locator("svg.curve text").all():
        box = text.bounding_box()
        assert chart["x"] <= box["x"]
        assert box["x"] + box["width"] <= chart["x"] + chart["width"]


@pytest.mark.parametrize("dark", [False, True])
def test_it_prints_in_colour_on_three_pages_at_most(browser: Any, page_file: Path, tmp_path: Path, dark: bool) -> None:
    page = browser.new_page(color_scheme="dark" if dark else "light")
    page.goto(page_file.as_uri())
    path = tmp_path / "page.pdf"
    page.pdf(path=str(path), prefer_css_page_size=True)
    assert path.read_bytes().count(b"/Type /Page\n") + path.read_bytes().count(b"/Type /Page ") <= 3
    page.emulate_media(media="print")
    colours = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).printColorAdjust]"
    )
    assert colours == ["rgb(255, 255, 255)", "exact"]
    assert page.locator(".legend").first.is_visible()
    assert page.locator(".sortable tbody tr:visible").count() <= 15
    page.close()


def test_the_comparison_fits_a_window_of_1100_pixels(browser: Any, tmp_path: Path) -> None:
    measured = {"measured_step_ns": 130_000_000, "measured_unplanned_ns": 120_000_000, "bitwise_equal": True}
    rows = [
        Row(
            solver,
            10 << share,
            "feasible",
            61.5,
            123_456_789,
            0.23,
            0.1,
            9 << share,
            8 << 30,
            120,
            7 << 30,
            9 << 30,
            **measured,  # type: ignore[arg-type]
        )
        for solver in ("mip", "pytorch-knapsack", "superneurons")
        for share in (28, 29, 30)
    ]
    comparison = Comparison(tuple(rows), 12 << 30, 100_000_000)
    path = tmp_path / "comparison.html"
    write_comparison_page(path, comparison.rows, "model", comparison.liveness_peak_bytes)
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.goto(path.as_uri())
    last = page.locator("table tr").first.locator("th").last.bounding_box()
    frame = page.locator(".scroll").first.bounding_box()
    assert last["x"] + last["width"] <= frame["x"] + frame["width"] + 1
    page.close()
