"""Every page is built without an error, whatever the folder holds."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

PAGES = ("", "/atlas", "/latent/0", "/steer", "/image", "/compare", "/study")


@pytest.mark.parametrize("page", PAGES)
def test_pages_of_a_run(client: TestClient, run_name: str, page: str) -> None:
    answer = client.get(f"/run/{run_name}{page}")
    assert answer.status_code == 200
    assert "<script>alert(1)" not in answer.text, "names are no HTML"


def test_the_list(client: TestClient, run_name: str) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert run_name in answer.text


@pytest.mark.parametrize(
    "page",
    ["/run/nowhere", "/run/nowhere/atlas", "/run/%2e%2e", "/run/{run}/latent/99", "/run/{run}/latent/x",
     "/run/{run}/latent/-1", "/run/{run}/atlas?of=sae", "/run/{run}/latent/0?of=..%2f.."],
)  # fmt: skip
def test_what_is_not_there_gets_a_page_that_says_so(client: TestClient, run_name: str, page: str) -> None:
    answer = client.get(page.replace("{run}", run_name))
    assert answer.status_code == 404
    assert "there is no" in answer.text or "has no atlas" in answer.text


@pytest.mark.parametrize(
    "state",
    ["color=taste&page=-3&low=7&high=x&status=alive&cls=Zebra&sort=nothing", "page=1000", "q=%00&method=x", "desc=0"],
)
def test_nonsense_in_an_address_gives_the_default(client: TestClient, run_name: str, state: str) -> None:
    assert client.get(f"/run/{run_name}/atlas?{state}").status_code == 200


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_the_choice_of_colours_leads_nowhere_else(client: TestClient, back: str) -> None:
    answer = client.get("/theme/dark", params={"back": back}, follow_redirects=False)
    assert answer.headers["location"] == "/"
    assert "unweave_theme=dark" in answer.headers["set-cookie"]
    assert client.get("/theme/pink", params={"back": "/run/x"}, follow_redirects=False).headers["location"] == "/run/x"


def test_the_report_and_its_figures(client: TestClient, run_name: str, runs: Path) -> None:
    (folder,) = runs.iterdir()
    assert client.get(f"/files/{run_name}/report.html").status_code == 404
    (folder / "report.html").write_text("<p>report")
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "x.png").write_bytes(b"png")
    assert client.get(f"/files/{run_name}/report.html").text == "<p>report"
    assert client.get(f"/files/{run_name}/figures/x.png").content == b"png"
