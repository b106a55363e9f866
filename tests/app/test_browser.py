"""The app in a real browser, as a person uses it."""

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import Served, Visitor
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from unweave.core.runtime import Runtime
from unweave.dictionaries.topk import TopK
from unweave.recipes.base import Run, carry_out
from unweave.store.rows import TensorRows
from unweave.train import Training, train

ROOMS = ("", "/atlas", "/latent/{firing}", "/steer", "/image", "/compare", "/study")
WAIT = 30_000
OTHER = "other"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def place(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the hostile run and another one, to be written into."""
    folder = tmp_path_factory.mktemp("shown")
    (finished,) = runs.iterdir()
    for name in (finished.name, OTHER):  # without what other tests have left in it
        shutil.copytree(finished, folder / name, ignore=shutil.ignore_patterns("notes.json", "report.html"))
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Served]:
    started = serve(place)
    yield started
    started.end()


def serve(place: Path, port: int = 0) -> Served:
    return Served(["serve", str(place), "--port", str(port)], log=place.parent / f"{place.name}.log")


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """`visitor(theme)` comes to look; it must have seen no fault when the test ends."""
    came: list[Visitor] = []

    def come(**options: Any) -> Visitor:
        came.append(Visitor(browser, **options))
        return came[-1]

    yield come
    for one in came:
        one.close()
    assert not [fault for one in came for fault in one.faults]


@pytest.fixture
def page(visitor: Callable[..., Visitor]) -> Page:
    return visitor().page


@pytest.fixture
def run(server: Served, run_name: str) -> str:
    """Address of the run's overview."""
    return f"{server.address}/run/{run_name}"


@pytest.fixture(scope="module")
def firing(place: Path, runs: Path) -> int:
    """A latent that fires often."""
    from unweave.analyze.atlas import Atlas

    (finished,) = runs.iterdir()
    return int(Atlas(finished / "artifacts" / "atlas").column("rate").argmax())


def settled(page: Page) -> None:
    """Connected, and nothing turns any more."""
    page.wait_for_load_state("networkidle")
    expect(page.locator(".q-spinner")).to_have_count(0, timeout=WAIT)


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def rows(page: Page) -> Locator:
    return page.locator("tbody tr").filter(has=page.locator("a"))


def latents(page: Page) -> list[int]:
    """The table's latents, top down."""
    return [int(text) for text in page.locator("tbody tr a").all_inner_texts()]


def slider(page: Page, latent: int) -> Locator:
    return page.get_by_role("slider", name=f"value of latent {latent}")


def press(page: Page, latent: int, key: str, times: int) -> None:
    slider(page, latent).locator("[tabindex]").focus()
    for _ in range(times):
        page.keyboard.press(key)


def drawn(page: Page) -> str:
    """The picture after steering."""
    after = page.locator("img.after")
    expect(after).to_be_visible(timeout=WAIT)
    return str(after.get_attribute("src"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_without_a_fault(
    visitor: Callable[..., Visitor], server: Served, run: str, firing: int, theme: str
) -> None:
    seen = visitor(color_scheme=theme)
    for address in (server.address, *(f"{run}{room}".format(firing=firing) for room in ROOMS)):
        page = seen.open(address)
        settled(page)
        expect(page.locator("body.body--dark")).to_have_count(int(theme == "dark"))
        for wide, high in ((1366, 768), (1024, 768)):
            page.set_viewport_size({"width": wide, "height": high})
            page.wait_for_timeout(150)  # charts follow the window's width
            assert overflow(page) <= 0, f"{address} at {wide}"
        assert page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0
        assert not seen.faults, address
        page.close()


def test_from_the_list_to_a_picture_that_changes(page: Page, server: Served, run_name: str) -> None:
    page.goto(server.address)
    page.locator(f'a[href$="/{run_name}/atlas"]').click()
    settled(page)
    rows(page).first.locator("td").nth(3).click()
    page.wait_for_url(re.compile(r"/latent/\d+"))
    latent = int(re.search(r"/latent/(\d+)", page.url)[1])
    settled(page)
    expect(page.get_by_role("heading", name=f"Latent {latent}")).to_be_visible()
    page.get_by_role("button", name=re.compile("^image ")).nth(1).click()
    page.wait_for_url(re.compile("example="))
    page.get_by_role("link", name="Steer it").click()
    page.wait_for_url(re.compile("/steer"))
    before = drawn(page)
    handle = slider(page, latent)
    box = handle.bounding_box()
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    expect(page.locator("img.after")).not_to_have_attribute("src", before)
    page.wait_for_url(re.compile(f"edits={latent}"))


def test_points_of_the_map_show_and_open_their_latent(page: Page, run: str) -> None:
    page.goto(f"{run}/atlas?method=pca")
    settled(page)
    expect(page.locator("canvas").first).to_be_visible()
    place = page.evaluate(
        """() => {
          const holder = document.querySelector('canvas').closest('.nicegui-echart');
          const chart = getElement(Number(holder.id.slice(1))).chart;
          const series = chart.getOption().series.findIndex(one => one.data.length);
          const point = chart.getOption().series[series].data[0];
          const at = chart.convertToPixel({seriesIndex: series}, point.slice(0, 2));
          const box = holder.getBoundingClientRect();
          return {x: box.x + at[0], y: box.y + at[1], latent: point[3]};
        }"""
    )
    page.mouse.move(place["x"] - 30, place["y"])
    page.mouse.move(place["x"], place["y"])
    expect(page.locator(f'.nicegui-echart img[src*="/latents/{place["latent"]}.png"]')).to_be_visible()
    page.mouse.click(place["x"], place["y"])
    page.wait_for_url(re.compile(f"/latent/{place['latent']}[?]"))


def test_an_atlas_is_the_same_after_a_reload(page: Page, run: str, class_names: tuple[str, ...]) -> None:
    page.goto(f"{run}/atlas")
    settled(page)
    everything = latents(page)
    choose(page, "colour", "frequency")
    choose(page, "status", "any")
    choose(page, "strongest class", class_names[0])
    page.get_by_role("columnheader", name="fires on").click()
    page.wait_for_url(re.compile("sort=rate"))
    page.wait_for_timeout(300)
    chosen = latents(page)
    assert chosen
    assert len(chosen) < len(everything)
    rates = [float(text.rstrip(" %")) for text in page.locator("tbody tr td:nth-child(4)").all_inner_texts()]
    assert rates in (sorted(rates), sorted(rates, reverse=True))
    address = page.url
    page.reload()
    settled(page)
    assert page.url == address
    assert latents(page) == chosen
    expect(page.get_by_role("combobox", name="colour", exact=True)).to_have_value("frequency")
    expect(page.get_by_role("combobox", name="strongest class", exact=True)).to_have_value(class_names[0])


def test_a_page_of_the_table_is_the_same_after_a_reload(page: Page, run: str) -> None:
    page.goto(f"{run}/atlas?status=any")
    settled(page)
    page.locator(".q-table__bottom .q-select").click()
    page.get_by_role("option", name="10", exact=True).click()
    page.wait_for_url(re.compile("rows=10"))
    expect(rows(page)).to_have_count(10)
    first = latents(page)
    page.get_by_role("button", name="Next page").click()
    page.wait_for_url(re.compile("page=2"))
    expect(page.get_by_text("11-20 of 24")).to_be_visible()
    second = latents(page)
    assert not set(first) & set(second)
    page.reload()
    settled(page)
    assert latents(page) == second


def test_a_steered_view_is_the_same_after_a_reload(page: Page, run: str, firing: int) -> None:
    page.goto(f"{run}/steer?latent={firing}&example=3")
    drawn(page)
    begun = drawn(page)
    press(page, firing, "ArrowRight", 10)
    expect(page.locator("img.after")).not_to_have_attribute("src", begun)
    page.wait_for_timeout(600)
    settled(page)
    value, picture, address = slider(page, firing).get_attribute("aria-valuenow"), drawn(page), page.url
    page.reload()
    assert drawn(page) == picture
    assert page.url == address
    assert float(slider(page, firing).get_attribute("aria-valuenow")) == pytest.approx(float(value), rel=1e-3)
    expect(page.get_by_role("spinbutton", name="image")).to_have_value("3")


def test_notes_are_kept_and_found(page: Page, run: str, firing: int, place: Path) -> None:
    name, text = '<img src=x onerror="alert(1)">', "stroke *through* the middle"
    page.goto(f"{run}/latent/{firing}")
    settled(page)
    page.get_by_label("name", exact=True).fill(name)
    page.get_by_label("notes", exact=True).fill(text)
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_text("Kept", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name=f"Latent {firing} · {name}")).to_be_visible()
    page.goto(f"{run}/atlas?status=any")
    settled(page)
    page.get_by_label("number, name or note").fill("THROUGH")
    expect(rows(page)).to_have_count(1)
    assert latents(page) == [firing]
    expect(page.locator("tbody")).to_contain_text(name)
    (written,) = place.glob("*/notes.json")
    assert json.loads(written.read_text())["atlas"][str(firing)] == {"name": name, "text": text}


def test_a_picture_of_ones_own(visitor: Callable[..., Visitor], run: str, tmp_path: Path) -> None:
    page = visitor().page
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    (tmp_path / "not.png").write_text("no picture at all")
    page.goto(f"{run}/image")
    settled(page)
    page.locator("input[type=file]").set_input_files(tmp_path / "own.png")
    expect(page.get_by_text("Closest captured images, by their rows")).to_be_visible()
    expect(page.get_by_text("60 × 40 before")).to_be_visible()
    assert page.locator('a[href*="/latent/"]').count() > 0
    page.locator("input[type=file]").set_input_files(tmp_path / "not.png")
    expect(page.get_by_text("cannot be read as a picture")).to_be_visible()


def test_comparing(page: Page, run: str) -> None:
    page.goto(f"{run}/compare")
    settled(page)
    page.get_by_role("button", name="Match").click()
    expect(page.locator("table")).to_have_count(1, timeout=WAIT)
    choose(page, "run", OTHER)
    page.wait_for_url(re.compile("with=other"))
    settled(page)
    expect(page.get_by_role("columnheader", name=OTHER)).to_be_visible()


def test_keys_alone_reach_a_latent_and_move_a_slider(page: Page, run: str) -> None:
    page.goto(f"{run}/atlas?method=pca")
    settled(page)
    for _ in range(60):
        page.keyboard.press("Tab")
        href = page.evaluate("document.activeElement.getAttribute('href') || ''")
        if "/latent/" in href:
            break
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/latent/\d+"))
    settled(page)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "Steer it":
            break
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/steer"))
    before = drawn(page)
    settled(page)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('[role=slider]') !== null"):
            break
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(page.locator("img.after")).not_to_have_attribute("src", before)


def test_two_visitors_do_not_move_each_other(visitor: Callable[..., Visitor], run: str, firing: int) -> None:
    one, other = visitor().page, visitor(color_scheme="dark").page
    one.goto(f"{run}/steer?edits={firing}:set:0&example=3")
    other.goto(f"{run}/steer?edits={firing}:set:0&example=3")
    still = drawn(one)
    assert drawn(other) == still
    press(one, firing, "ArrowRight", 20)
    expect(one.locator("img.after")).not_to_have_attribute("src", still)
    assert drawn(other) == still
    choose(other, "or the mean of a class", "ratio: 1 $x^ [red]")
    expect(other.locator("img.after")).not_to_have_attribute("src", still)
    expect(one.get_by_role("spinbutton", name="image")).to_have_value("3")


def test_names_are_text(page: Page, run: str, class_names: tuple[str, ...]) -> None:
    page.goto(f"{run}/atlas")
    settled(page)
    page.get_by_role("combobox", name="strongest class", exact=True).click()
    for name in class_names:
        expect(page.get_by_role("option", name=name, exact=True)).to_be_visible()
    assert page.locator("body b, body i:not(.q-icon), body [onload]").count() == 0
    assert page.evaluate("[...document.scripts].filter(one => one.text == 'alert(1)').length") == 0


class Held(TensorRows):
    """Rows of which each batch waits until it is let go."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__(rows)
        self.gate = threading.Semaphore(0)

    def batches(self, *given: Any, **named: Any) -> Iterator[torch.Tensor]:
        for batch in super().batches(*given, **named):
            self.gate.acquire()
            yield batch

    def let(self, batches: int) -> None:
        self.gate.release(batches)


def points(page: Page) -> int:
    """Points of the first curve that is drawn."""
    return page.evaluate(
        """() => {
          const holder = document.querySelector('.nicegui-echart');
          const chart = holder && getElement(Number(holder.id.slice(1)))?.chart;
          return chart?.getOption()?.series?.[0]?.data.length ?? 0;
        }"""
    )


def wait_for_points(page: Page, most: int) -> int:
    """How many there are once there are more than `most`."""
    for _ in range(100):
        if (found := points(page)) > most:
            return found
        page.wait_for_timeout(100)
    raise AssertionError(f"no more than {most} points came")


def test_a_run_under_way_grows_and_ends_by_itself(page: Page, server: Served, place: Path) -> None:
    rows, steps = Held(torch.randn(400, 8, generator=torch.Generator().manual_seed(0))), 200
    run = Run(place / "under-way", seed=0, runtime=Runtime(checkpoint_seconds=0.0))

    def work(run: Run) -> None:
        training = Training(epochs=steps // 10, batch_size=40)
        train(rows, TopK(d_sae=16, k=2), training, out=run.place("sae"), runtime=run.runtime)
        run.findings.append("It has ended.")

    thread = threading.Thread(target=carry_out, args=(run, {"recipe": "held", "config": {}, "seed": 0}, work))
    thread.start()
    try:
        while not (run.folder / "run.json").exists():
            page.wait_for_timeout(20)
        page.goto(f"{server.address}/run/under-way")
        expect(page.get_by_text("This run has not ended")).to_be_visible()
        rows.let(40)
        few = wait_for_points(page, 1)
        rows.let(100)
        assert wait_for_points(page, few) <= steps
        expect(page.get_by_text("running", exact=True)).to_be_visible()
    finally:
        rows.let(steps)
        thread.join()
    expect(page.get_by_text("It has ended.")).to_be_visible(timeout=WAIT)
    expect(page.get_by_text("complete", exact=True)).to_be_visible()
    assert wait_for_points(page, 1) > few


def test_a_page_survives_the_server(browser: Browser, server: Served, place: Path, run: str) -> None:
    visitor = Visitor(browser)
    page = visitor.open(f"{run}/atlas?method=pca&color=frequency")
    settled(page)
    server.end(9)
    expect(page.get_by_text("Trying to reconnect")).to_be_visible(timeout=WAIT)
    again = serve(place, int(server.port))
    try:
        expect(page.get_by_text("Trying to reconnect")).to_be_hidden(timeout=WAIT)
        expect(rows(page).first).to_be_visible(timeout=WAIT)
        choose(page, "colour", "class")
        page.wait_for_url(re.compile("color=class"))
    finally:
        visitor.close()
        again.end()
