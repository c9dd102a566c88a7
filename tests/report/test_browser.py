"""A report in a browser: it draws, sorts, searches and zooms, and nothing in it is ever run."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trl_deepseek import report
from trl_deepseek.rollouts import record

pytestmark = pytest.mark.matrix

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
STEPS, EACH = 500, 100


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a made-up run of 50,000 completions, some of which would break a page."""
    folder = tmp_path_factory.mktemp("large") / "run"
    (folder / "completions").mkdir(parents=True)
    rnd = random.Random(0)
    count = STEPS * EACH
    step = [i // EACH for i in range(count)]
    scores = [float(rnd.random() < 0.2 + 0.7 * s / STEPS) for s in step]
    filler = " ".join(f"word{n}" for n in range(150))
    texts = [f"{EVIL if i % 7 == 0 else ''} answer {i} {filler}" for i in range(count)]
    table = {
        "step": step,
        "batch": step,
        "mode": ["train"] * count,
        "group": pa.array([i % EACH // 10 for i in range(count)], pa.int32()),
        "prompt": [f"question {i // 10 % 700} {EVIL}" for i in range(count)],
        "completion": texts,
        "conversational": [False] * count,
        "completion_ids": pa.array([[1] * 20] * count, pa.list_(pa.int32())),
        "generation_prefix": [""] * count,
        "columns": ["{}"] * count,
        "weights": ['{"right": 1.0, "short": 0.5}'] * count,
        "advantage": [rnd.gauss(0, 1) for _ in range(count)],
        "rewards/right": scores,
        "rewards/short": [rnd.random() for _ in range(count)],
    }
    file = folder / "completions" / f"batches-{0:08d}-{STEPS - 1:08d}.parquet"
    pq.write_table(pa.table(table), file)
    names = ("loss", "reward", "rewards/right/mean", "kl", "entropy", "grad_norm", EVIL)
    for at in range(1, STEPS + 1):
        record.append(folder / record.LOG, {name: rnd.random() for name in names} | {"step": at})
    return report.write(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path is not None, "there is no chromium: apt-get install chromium, as `make chromium`"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


LIGHT, NARROW = ("light", 1280), ("dark", 400)
# What one does on the page is tried on one of the two screens each: to open it takes seconds.
light = pytest.mark.parametrize("page", [LIGHT], indirect=True, ids=["light"])
narrow = pytest.mark.parametrize("page", [NARROW], indirect=True, ids=["dark and narrow"])


@pytest.fixture
def page(browser: Any, page_file: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An open report, whose every error and request is counted."""
    scheme, width = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    troubles: list[str] = []
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    outside = ("http:", "https:", "ws:")
    opened.on(
        "request", lambda made: troubles.append(made.url) if made.url.startswith(outside) else None
    )
    opened.goto(page_file.as_uri())
    opened.wait_for_selector("html[data-ready=true]")
    yield opened
    assert troubles == []
    assert opened.evaluate("window.hacked") is None
    opened.close()


def test_it_is_small(page_file: Path) -> None:
    assert page_file.stat().st_size < 15_000_000


@pytest.mark.parametrize("page", [LIGHT, NARROW], indirect=True, ids=["light", "dark and narrow"])
def test_it_fits_the_screen_in_the_colours_that_are_asked_for(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in colour[4:-1].split(","))
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert brightness < 200 if dark else brightness > 600


@light
def test_its_curves_are_drawn_and_zoomed_together(page: Any) -> None:
    panels = page.locator("figure[data-panel]")
    for each in (0, 1):
        panels.nth(each).scroll_into_view_if_needed()
        panels.nth(each).locator(".main-svg").first.wait_for()
    plots = "[...document.querySelectorAll('.js-plotly-plot')].slice(0, 2)"
    ranges = f"{plots}.map(plot => plot.layout.xaxis.range)"
    whole = page.evaluate(ranges)[0]
    assert whole[1] == pytest.approx(STEPS, abs=30)
    box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=5)
    page.mouse.up()
    page.wait_for_function(f"{ranges}.every(range => range[1] < 0.7 * {whole[1]})")
    first, second = page.evaluate(ranges)
    assert first == second
    assert first == pytest.approx([STEPS * 0.25, STEPS * 0.5], abs=STEPS * 0.1)


@narrow
def test_completions_are_searched_filtered_sorted_and_opened(page: Any) -> None:
    rows, count = page.locator("tr.row"), page.locator("[data-count]")
    count.scroll_into_view_if_needed()
    assert rows.count() == 25
    page.locator("select[data-filter=why]").select_option("best")
    assert count.inner_text().startswith("100 of ")
    assert page.locator("tr.row .meter i").first.evaluate("each => each.style.width") == "100%"

    page.locator("select[data-filter=why]").select_option("")
    page.get_by_role("button", name="step").click()
    steps = [int(each) for each in page.locator("tr.row td:first-child").all_inner_texts()]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == STEPS - 1
    page.locator("[data-to]").fill("3")
    assert page.locator("tr.row td:first-child").first.inner_text() == "3"

    page.locator("[data-to]").fill("")
    page.locator("input[type=search]").fill("ONERROR='WINDOW")
    rows.first.locator(".open").click()
    detail = page.locator("tr.detail")
    assert EVIL in detail.inner_text()
    assert detail.locator("mark").first.inner_text() == "onerror='window"
    assert "short" in detail.locator(".breakdown").inner_text()
    rows.first.locator(".open").click()
    assert detail.count() == 0
    page.locator("input[type=search]").fill("no completion has this")
    assert rows.count() == 0


@light
def test_what_it_holds_is_what_the_page_says(page: Any) -> None:
    held = json.loads(page.locator("#data").inner_text() or page.evaluate("data.textContent"))
    rows = held["stages"][0]["completions"]["rows"]
    assert f"{len(rows):,} of 50,000 are on this page" in page.locator("body").inner_text()
