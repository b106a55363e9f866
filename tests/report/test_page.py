"""The page: whole in itself, well-formed, complete, and safe whatever things are called."""

import html
import json
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from unweave.core.errors import StoreError
from unweave.recipes.base import METRICS, RUN, Run
from unweave.report import build_report
from unweave.report.measures import MEASURES

VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass(eq=False)
class Page(HTMLParser):
    """What a reader of HTML sees."""

    open: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"<{tag}> repeats an attribute")
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str, **attributes: str) -> int:
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.tags)


def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text())
    page.close()
    return page


def check(path: Path) -> Page:
    """What must hold of every page."""
    page, text = parsed(path), path.read_text()
    assert not page.faults
    assert not page.open
    assert text.startswith("<!doctype html>")
    assert "<script" not in text.lower()
    assert "@import" not in text
    assert not re.findall(r"\w+://[^\s\"'<]*", text), "an address"
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:image/png;base64,", "#")), f"{tag} {name}={target}"
            assert target is None or not target.startswith("#") or target[1:] in ids, f"{target} is nowhere"
    assert not path.with_suffix(".writing").exists()
    return page


@pytest.fixture(scope="module")
def page_path(finished: Run) -> Path:
    return build_report(finished.folder)


def test_the_page_is_whole_in_itself_and_well_formed(page_path: Path, finished: Run) -> None:
    assert page_path == finished.folder / "report.html"
    page = check(page_path)
    for tag in ("html", "head", "title", "body", "h1"):
        assert page.count(tag) == 1, tag
    assert page.count("svg") == page.count("figure") == page.count("figcaption") == 5
    assert page.count("meta", charset="utf-8") == 1


def test_a_row_for_each_measure_and_a_column_for_each_condition(page_path: Path, finished: Run) -> None:
    text = page_path.read_text()
    table = text[text.index("<table>") : text.index("</table>")]
    header = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", table)
    assert header == ["", "dictionary", "neurons", "pca", "random"]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert [row[0].partition("<small>")[0] for row in rows] == [measure.label for measure in MEASURES]
    for row, measure in zip(rows, MEASURES, strict=True):
        suffixes = ["", "@neurons", "@pca", "@random"]
        expected = [finished.metrics.get(measure.name + suffix) for suffix in suffixes]
        assert [html.unescape(cell) for cell in row[1:]] == [measure.write(value) for value in expected], measure.name


def test_every_measure_is_a_metric_of_a_run(finished: Run) -> None:
    assert {measure.name for measure in MEASURES} <= set(finished.metrics)


def test_shares_are_said_as_they_were_set(page_path: Path) -> None:
    text = page_path.read_text()
    assert "fire on more than 2 % of the rows" in text
    assert "(fire on more than 2 % of rows)" in html.unescape(text)
    assert "0.1 %" not in text[: text.index("How this was made")]


def test_facts_findings_and_provenance(page_path: Path, finished: Run) -> None:
    text = html.unescape(page_path.read_text())
    run = json.loads((finished.folder / RUN).read_text())
    assert all(sentence in text for sentence in finished.findings)
    assert f"{100 * finished.metrics['model/test_accuracy']:.1f} % test accuracy" in text
    assert "30 held-out rows" in text
    assert json.dumps(run["config"], indent=1, ensure_ascii=False) in text
    assert all(f'"{role}"' in text for role in run["artifacts"])


def test_hostile_names_are_shown_as_they_are(page_path: Path, hostile_names: tuple[str, ...]) -> None:
    page = check(page_path)
    assert page.count("script") == 0
    for name in hostile_names:
        assert name in page.text, "in the table of classes and below the charts"
        assert any(f"{name} is " in text for text in page.text), "in a summary"
        assert any((found.get("title") or "").startswith(f"{name}: ") for _, found in page.tags)


def test_cards_have_pictures_and_charts(page_path: Path, hostile_names: tuple[str, ...]) -> None:
    page = check(page_path)
    cards = page.count("article")
    assert cards >= 12
    assert page.count("img") == cards
    assert page.count("div", **{"class": "chart"}) == page.count("div", **{"class": "chart classes"}) == cards
    below = [text for text in page.text if text == hostile_names[2]]
    assert len(below) >= cards, "a colon in a class's name does not cut it short"


def test_figures_are_written_as_png_and_svg(page_path: Path) -> None:
    folder = page_path.parent / "figures"
    names = {path.stem for path in folder.iterdir()}
    curves, galleries = {"model_curves", "dictionary_curves"}, {"latents", "latents_at_random", "random_directions"}
    assert names == {*curves, *galleries, "frequencies", "selectivity", "information"}
    assert {path.name for path in folder.iterdir()} == {f"{name}{end}" for name in names for end in (".png", ".svg")}
    for name in names:
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 300


def test_a_report_comes_out_the_same_again_and_changes_nothing_else(page_path: Path, finished: Run) -> None:
    made = {path: path.read_bytes() for path in [*(page_path.parent / "figures").glob("*.svg"), page_path]}
    pictures = set(finished.folder.rglob("*.png"))
    others = [path for path in finished.folder.rglob("*") if path.is_file() and path not in pictures | set(made)]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in others}
    assert finished.folder / METRICS in before
    assert build_report(page_path.parent) == page_path
    assert {path: path.read_bytes() for path in made} == made
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in others} == before


def test_numbers_that_are_none_are_dashes(finished: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy)
    metrics = json.loads((copy / METRICS).read_text())
    metrics["dictionary/explained_variance"] = None
    del metrics["dictionary/l0@pca"]
    (copy / METRICS).write_text(json.dumps(metrics))
    said = json.loads((copy / RUN).read_text())
    del said["files"], said["checksum"]  # as the version before wrote it
    (copy / RUN).write_text(json.dumps(said))
    text = build_report(copy).read_text()
    assert text.count(">–</td>") == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (RUN, '{"status": "running"}', "has not ended"),
        (RUN, "{", "not readable JSON"),
        (RUN, "[]", "does not say what was run"),
        (METRICS, None, "does not exist"),
        ("artifacts/atlas/latents.parquet", "", "bytes where its manifest says"),
        ("artifacts/model/curves.parquet", None, "is missing"),
    ],
)
def test_what_is_unfinished_or_damaged_is_named(
    finished: Run, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy, ignore=shutil.ignore_patterns("report.html", "figures"))
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    with pytest.raises(StoreError, match=message):
        build_report(copy)
    assert not (copy / "report.html").exists()
