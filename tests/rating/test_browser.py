"""The raters' pages in a real browser: three people at once, to the end."""

from collections.abc import Callable
from typing import Any

import pytest
from browsing import Visitor
from playwright.sync_api import Browser, expect

from unweave.study import Study

DOUBLE_CLICK = 450  # the page takes a second click within 0.4 s for a double click

pytestmark = pytest.mark.browser


class Rater(Visitor):
    """One person at one browser."""

    def __init__(self, browser: Browser, link: str, **options: Any) -> None:
        super().__init__(browser, **options)
        self.page.goto(link)

    def sees(self, grid: int, total: int = 10) -> None:
        """The grid of this number is there, loaded, and can be rated."""
        expect(self.page.get_by_text(f"{grid} of {total}")).to_be_visible(timeout=20_000)
        expect(self.page.get_by_alt_text(f"grid {grid}", exact=True)).to_be_visible(timeout=20_000)
        expect(self.page.get_by_role("button", name="7, perfectly")).to_be_enabled(timeout=20_000)
        self.page.wait_for_timeout(DOUBLE_CLICK)

    def go_on(self) -> None:
        button = self.page.get_by_role("button", name="Go on")
        expect(button).to_be_visible(timeout=20_000)
        self.page.keyboard.press("Enter")


def test_three_raters_at_once_to_the_end(browser: Browser, study: Study, serving: Callable) -> None:
    server = serving(study.folder)
    raters = [Rater(browser, server.links[name]) for name in study.plan.raters]
    for rater in raters:
        expect(rater.page.get_by_text(study.plan.question)).to_be_visible()
        expect(rater.page.get_by_role("button", name="Begin")).to_be_visible()
        rater.page.keyboard.press("Enter")
    for grid in range(1, 11):
        for rater in raters:
            rater.sees(grid)
        for place, rater in enumerate(raters):
            value = 1 + (grid + place) % 7
            if place == 0:  # by keyboard alone
                rater.page.keyboard.press(str(value))
            else:
                rater.page.locator(f'button[aria-label^="{value}"]').click()
        if grid == 5:  # one closes the window, and comes back
            raters[2].page.close()
            raters[2].open(server.links[study.plan.raters[2]])
            expect(raters[2].page.get_by_role("button", name="Go on with grid 6")).to_be_visible()
            raters[2].page.keyboard.press("Enter")
        if grid in {4, 7}:
            for rater in raters:
                rater.go_on()
    for rater in raters:
        expect(rater.page.get_by_text("Thank you.")).to_be_visible()
        assert not rater.faults
        for word in (*study.plan.conditions, "item-", "latent"):
            assert not [frame for frame in rater.frames if word in frame]
        rater.context.close()
    ratings = study.ratings()
    assert len(ratings) == study.plan.planned
    for place, name in enumerate(study.plan.raters):
        own = [rating for rating in ratings if rating.rater == name]
        assert [rating.value for rating in own] == [1 + (grid + place) % 7 for grid in range(1, 11)]
        assert all(0.3 < rating.seconds < 60 for rating in own)
    assert {entry.condition for entry in study.unseal().values()} == set(study.plan.conditions)


def test_undo_double_clicks_and_two_windows(browser: Browser, study: Study, serving: Callable) -> None:
    server = serving(study.folder)
    rater = Rater(browser, server.links["rater-1"], color_scheme="dark")
    page = rater.page
    page.get_by_role("button", name="Begin").click()
    rater.sees(1)
    page.keyboard.press("Backspace")  # there is nothing to take back
    page.get_by_role("button", name="3", exact=True).dblclick()
    rater.sees(2)
    assert [rating.value for rating in study.ratings()] == [3]
    page.keyboard.press("u")
    rater.sees(1)
    page.keyboard.press("5")
    rater.sees(2)
    page.get_by_role("button", name="Take back the last rating").click()
    rater.sees(1)
    page.keyboard.press("6")
    rater.sees(2)
    assert [rating.value for rating in study.ratings()] == [6]

    second = Rater(browser, server.links["rater-1"])
    second.page.get_by_role("button", name="Go on with grid 2").click()
    second.sees(2)
    page.keyboard.press("1")
    rater.sees(3)
    second.page.keyboard.press("7")
    expect(second.page.get_by_text("moved on in another window")).to_be_visible()
    second.sees(3)
    assert [rating.value for rating in study.ratings()] == [6, 1]
    assert not rater.faults
    rater.context.close()
    second.context.close()


def test_a_page_left_open_survives_the_server(browser: Browser, study: Study, serving: Callable) -> None:
    server = serving(study.folder)
    rater = Rater(browser, server.links["rater-1"])
    rater.page.get_by_role("button", name="Begin").click()
    rater.sees(1)
    rater.page.keyboard.press("4")
    rater.sees(2)
    server.end(9)
    serving(study.folder, port=int(server.port))
    expect(rater.page.get_by_role("button", name="Go on with grid 2")).to_be_visible(timeout=40_000)
    rater.page.keyboard.press("Enter")
    rater.sees(2)
    rater.page.keyboard.press("2")
    rater.sees(3)
    assert [rating.value for rating in study.ratings()] == [4, 2]
    rater.context.close()


@pytest.mark.parametrize("path", ["/r/wrong", "/", "/r/%2e%2e%2fkey.sealed"])
def test_a_wrong_link_says_so(browser: Browser, server: Any, path: str) -> None:
    page = browser.new_page()
    answer = page.goto(server.address + path)
    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_text("If you were given a link, check that it was copied whole")).to_be_visible()
    page.close()
