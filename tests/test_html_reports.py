"""The pages: the numbers of the run, as written; in a real browser nothing cut off, nothing fetched, no complaint."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from browser import Browser, chromium

import tfprune_init as tpi
from tfprune_init.errors import OptionError
from tfprune_init.experiments import Results
from tfprune_init.reports.html_report import Column, HtmlReport, ReportSection, TableBlock

LONG = "a_layer_whose_name_is_as_long_as_those_that_backbones_of_libraries_give_their_layers"
WIDTHS = (1280, 390)


def build(seed: int) -> Any:
    return tpi.models.lenet_300_100((8, 8, 1), 10, seed=seed)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def model() -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, name=LONG),
            layers.BatchNormalization(name="a>b"),
            layers.Flatten(),
            layers.Dense(16, "relu", name="dense"),
            layers.Dense(10, name="head"),
        ],
        name="small",
    )


@pytest.fixture(scope="module")
def report(model: Any) -> tpi.PruningReport:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return tpi.prune_at_init(
        model, tpi.datasets.load().train, sparsity=0.95, method="force", steps=4, loss=loss, verbose=0
    )


@pytest.fixture(scope="module")
def pruned(model: Any, report: tpi.PruningReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    initial = {path: np.random.default_rng(0).normal(size=mask.shape) for path, mask in report.masks.items()}
    epochs = [{"loss": 2.0, "accuracy": 0.25, "val_loss": 2.1, "val_accuracy": 0.2}] * 3
    path = tmp_path_factory.mktemp("page") / "pruned.html"
    page = tpi.reports.pruning_page(
        report.to_dict(), report.masks, model=model, initial=initial, epochs=epochs, data="digits"
    )
    page.save(path)
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    methods = ["random", "magnitude", {"method": "force", "steps": 3}]
    out = tmp_path_factory.mktemp("comparison")
    return tpi.compare(build, tpi.datasets.load(), methods=methods, sparsities=[0.9, 0.999], seeds=2, epochs=1, out=out)


@pytest.fixture(scope="module")
def compared(results: Results) -> Path:
    path = results.out / "report.html"
    tpi.reports.comparison_page(results).save(path)
    return path


class Written(HTMLParser):
    """What a file says, read without a browser: the cells of each table, its head first, facts and images."""

    def __init__(self, path: Path):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.terms: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    @property
    def rows(self) -> list[list[list[str]]]:
        """The rows of each table, without the head."""
        return [table[1:] for table in self.tables]

    @property
    def facts(self) -> dict[str, str]:
        return dict(zip(self.terms[::2], self.terms[1::2], strict=True))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag in ("dt", "dd"):
            self.terms.append("")
        elif tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("th", "button", "td"):
            self.tables[-1][-1][-1] += data
        elif self._inside in ("dt", "dd"):
            self.terms[-1] += data


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A comparison of tiny networks, of which some collapse."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(96, 8)).astype("float32"), np.arange(96) % 3
    return tpi.compare(
        lambda seed: keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]),
        ((x, y), (x, y)),
        methods=["random", {"method": "force", "steps": 3}],
        sparsities=[0.5, 0.994],
        seeds=1,
        epochs=1,
        out=tmp_path_factory.mktemp("few"),
    )


def check_tables_of_report(report: tpi.PruningReport, tables: list[list[list[str]]]) -> None:
    shown = {row[0]: row[1:] for row in tables[0]}
    assert set(shown) == set(report.masks)
    for path, mask in report.masks.items():
        kept, size, density, *_ = shown[path]
        assert (kept, size) == (f"{mask.sum():,}", f"{mask.size:,}")
        assert density == f"{100 * mask.mean():.4g}%"
    skipped = {row[0]: row[2] for row in tables[1]}
    assert skipped == {row.path: row.reason for row in report.skipped}
    assert "a>b/gamma" in skipped
    assert [row[1:] for row in tables[2]] == [["2.0000", "25.00%", "2.1000", "20.00%"]] * 3


def check_summary(results: Results, table: list[list[str]], facts: dict[str, str]) -> None:
    shown = [(row[0], row[2], row[5]) for row in table]
    assert shown == [(row.label, f"{100 * row.mean:.2f}%", str(row.destroyed)) for row in results.summary()]
    assert facts["destroyed networks"] == str(sum(bool(run.destroyed) for run in results))


def test_the_file_of_a_run_has_the_numbers_of_the_report(report: tpi.PruningReport, pruned: Path) -> None:
    written = Written(pruned)
    check_tables_of_report(report, written.rows)
    check_pictures(written)


def test_the_file_of_a_comparison_has_its_numbers(few: Results, tmp_path: Path) -> None:
    tpi.reports.comparison_page(few).save(tmp_path / "report.html")
    written = Written(tmp_path / "report.html")
    check_summary(few, written.rows[0], written.facts)
    check_pictures(written)
    heads, rows = written.tables[2][0], written.rows[2]
    assert len(rows) == len(few) == 5
    costs = {(row[0], row[1]): row[2:] for row in written.rows[1]}
    for run in few:
        share = f"{100 * run.sparsity:.4g}%"
        assert costs[run.label, share][:2] == [str(run.training_steps), str(run.scoring_steps)]
    place = heads.index("accuracy")
    known = ["-" if run.accuracy is None else f"{100 * run.accuracy:.2f}%" for run in few]
    assert [row[place] for row in rows] == known
    assert 1 <= known.count("-") <= 2


def check_pictures(written: Written) -> None:
    """All are drawings inside the file, with words for those who cannot see them."""
    assert len(written.images) >= 4
    for image in written.images:
        kind, _, data = image["src"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
        assert image["alt"]


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["pruned", "compared"])
def test_opens_whole_and_alone(name: str, width: int, browser: Browser, request: pytest.FixtureRequest) -> None:
    browser.open(request.getfixturevalue(name), width)
    assert browser.ask("return window.innerWidth") == width
    assert browser.cut_off() == []
    assert browser.fetched() == []
    assert browser.complaints() == []
    sizes = browser.ask("return [...document.images].map(image => [image.complete, image.naturalWidth, image.width])")
    assert len(sizes) >= 4
    assert all(complete and natural > 300 and 300 <= shown <= width for complete, natural, shown in sizes)
    assert all(browser.ask("return [...document.images].map(image => image.alt)"))


@pytest.mark.browser
def test_the_checks_can_fail(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    (tmp_path / "there.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    bad.write_text(
        "<p style='width:2000px'>wide</p><p style='width:50px;overflow:hidden;white-space:nowrap'>cut off text</p>"
        "<img src='there.svg'><script>missing()</script>"
    )
    browser.open(bad, 390)
    assert set(browser.cut_off()) >= {"P: wide", "P: cut off text", "the page scrolls sideways"}
    assert [name.rsplit("/", 1)[-1] for name in browser.fetched()] == ["there.svg"]
    assert any("missing is not defined" in message for message in browser.complaints())


def rows(browser: Browser, table: int) -> list[list[str]]:
    body = f"document.querySelectorAll('table')[{table}].tBodies[0]"
    return browser.ask(f"return [...{body}.rows].map(row => [...row.cells].map(cell => cell.innerText))")


@pytest.mark.browser
def test_numbers_are_those_of_the_report(report: tpi.PruningReport, pruned: Path, browser: Browser) -> None:
    browser.open(pruned, 1280)
    check_tables_of_report(report, [rows(browser, table) for table in range(3)])


@pytest.mark.browser
def test_tables_sort(results: Results, compared: Path, browser: Browser) -> None:
    browser.open(compared, 1280)
    heads = browser.ask("return [...document.querySelectorAll('table')[2].tHead.rows[0].cells].map(c => c.innerText)")
    place = heads.index("accuracy")
    known = sorted(f"{100 * run.accuracy:.2f}%" for run in results if run.accuracy is not None)
    assert len(known) < len(results)
    for direction in (1, -1):
        browser.ask(f"document.querySelectorAll('table')[2].querySelectorAll('button')[{place}].click()")
        values = [row[place] for row in rows(browser, 2)]
        numbers = [float(value.rstrip("%")) for value in values if value != "-"]
        assert numbers == sorted(numbers, reverse=direction < 0)
        assert sorted(values[: len(known)]) == known
        assert set(values[len(known) :]) == {"-"}
    browser.ask("document.querySelectorAll('table')[2].querySelectorAll('button')[0].click()")
    assert [row[0] for row in rows(browser, 2)] == sorted(run.label for run in results)


@pytest.mark.browser
def test_summary_is_that_of_the_results(results: Results, compared: Path, browser: Browser) -> None:
    browser.open(compared, 1280)
    script = "return [...document.querySelectorAll('dl div')].map(one => [...one.children].map(part => part.innerText))"
    check_summary(results, rows(browser, 0), dict(browser.ask(script)))


def test_text_is_text(tmp_path: Path) -> None:
    table = TableBlock([Column("c")], [["</td>"]])
    page = HtmlReport("<script>alert(1)</script>", [("a & b", "<i>")], "", [ReportSection("x", [table])])
    page.save(tmp_path / "page.html")
    written = (tmp_path / "page.html").read_text()
    assert written.count("<script>") == 1
    for text in (page.title, "a & b", "<i>", "</td>"):
        assert html.escape(text) in written
    assert not re.search(r"(?:src|href)=\"(?!data:)", written)


def test_no_runs_no_page(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="A page needs runs"):
        tpi.reports.comparison_page(Results([], tmp_path))
