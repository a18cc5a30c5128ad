"""The pages, in a real browser: nothing cut off, nothing fetched, no complaint, and the numbers of the run."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from browser import Browser, chromium

import tfprune_init as tpi
from tfprune_init.errors import OptionError
from tfprune_init.experiments import Results
from tfprune_init.pages.page import Column, Page, Section, Table

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
    page = tpi.pages.pruning_page(
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
    tpi.pages.comparison_page(results).save(path)
    return path


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


def test_numbers_are_those_of_the_report(report: tpi.PruningReport, pruned: Path, browser: Browser) -> None:
    browser.open(pruned, 1280)
    shown = {row[0]: row[1:] for row in rows(browser, 0)}
    assert set(shown) == set(report.masks)
    for path, mask in report.masks.items():
        kept, size, density, *_ = shown[path]
        assert (kept, size) == (f"{mask.sum():,}", f"{mask.size:,}")
        assert density == f"{100 * mask.mean():.4g}%"
    skipped = {row[0]: row[2] for row in rows(browser, 1)}
    assert skipped == {row.path: row.reason for row in report.skipped}
    assert "a>b/gamma" in skipped
    assert [row[1:] for row in rows(browser, 2)] == [["2.0000", "25.00%", "2.1000", "20.00%"]] * 3


def test_tables_sort(results: Results, compared: Path, browser: Browser) -> None:
    browser.open(compared, 1280)
    heads = browser.ask("return [...document.querySelectorAll('table')[1].tHead.rows[0].cells].map(c => c.innerText)")
    place = heads.index("accuracy")
    known = sorted(f"{100 * run.accuracy:.2f}%" for run in results if run.accuracy is not None)
    assert len(known) < len(results)
    for direction in (1, -1):
        browser.ask(f"document.querySelectorAll('table')[1].querySelectorAll('button')[{place}].click()")
        values = [row[place] for row in rows(browser, 1)]
        numbers = [float(value.rstrip("%")) for value in values if value != "-"]
        assert numbers == sorted(numbers, reverse=direction < 0)
        assert sorted(values[: len(known)]) == known
        assert set(values[len(known) :]) == {"-"}
    browser.ask("document.querySelectorAll('table')[1].querySelectorAll('button')[0].click()")
    assert [row[0] for row in rows(browser, 1)] == sorted(run.label for run in results)


def test_summary_is_that_of_the_results(results: Results, compared: Path, browser: Browser) -> None:
    browser.open(compared, 1280)
    shown = [(row[0], row[2], row[5]) for row in rows(browser, 0)]
    assert shown == [(row.label, f"{100 * row.mean:.2f}%", str(row.destroyed)) for row in results.summary()]
    script = "return [...document.querySelectorAll('dl div')].map(one => [...one.children].map(part => part.innerText))"
    assert dict(browser.ask(script))["destroyed networks"] == str(sum(bool(run.destroyed) for run in results))


def test_text_is_text(tmp_path: Path) -> None:
    table = Table([Column("c")], [["</td>"]])
    page = Page("<script>alert(1)</script>", [("a & b", "<i>")], "", [Section("x", [table])])
    page.save(tmp_path / "page.html")
    written = (tmp_path / "page.html").read_text()
    assert written.count("<script>") == 1
    for text in (page.title, "a & b", "<i>", "</td>"):
        assert html.escape(text) in written
    assert not re.search(r"(?:src|href)=\"(?!data:)", written)


def test_no_runs_no_page(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="A page needs runs"):
        tpi.pages.comparison_page(Results([], tmp_path))
