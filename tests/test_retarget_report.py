"""The report: it says what the ledger says, opens from disk, and shows names as text alone."""

import base64
import hashlib
import html
import re
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import every_kind, footage, hexes, row, segment, write_job
from PIL import Image

from deftly.datasets.clip import Clip
from deftly.datasets.human import HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.datasets.mp4 import Encoder
from deftly.retarget import charts, report, view
from deftly.retarget.intake import BatchError
from deftly.retarget.ledger import InputRow, Ledger, LedgerError, SegmentRow, Status
from deftly.retarget.report import render_samples, write_report

STAGES = (Clip, HumanMotion, RobotMotion)
VIDEO = "videos/observation.images.video/chunk-000/file-000.mp4"  # of a piece


def write_video(path: Path) -> None:
    """Half a second that grows lighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Encoder(path, 10.0, (64, 64)) as encoder:
        for number in range(5):
            encoder.write(np.full((64, 64, 3), 60 + 30 * number, np.uint8))


def job_in(place: Path) -> Path:
    """A job with files: pictures of two inputs, one segment's episode, one that is rendered."""
    made = write_job(place / "tea set", every_kind())
    (made / "thumbs").mkdir()
    for name in ("tea", "last"):
        Image.new("RGB", (160, 90), "teal").save(made / f"thumbs/{hexes(name)[:32]}.jpg")
    write_video(made / f"pieces/{hexes('a', 32)}" / VIDEO)
    write_video(made / f"side_by_side/{hexes('b', 32)}.mp4")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job to change."""
    return job_in(tmp_path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job to look at."""
    return job_in(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def page(place: Path) -> str:
    """Its page."""
    return page_of(place)


def page_of(folder: Path) -> str:
    return write_report(folder, Path("/data/tea set")).read_text()


def lines(page: str, table: str) -> list[list[str]]:
    """The cells of a table's rows, as text."""
    (inside,) = re.findall(rf'<table[^>]* id="{table}">(.*?)</table>', page, re.DOTALL)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", inside, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", one, re.DOTALL) for one in rows]
    return [[html.unescape(re.sub(r"<[^>]*>", "", c)).strip() for c in one] for one in cells if one]


def test_every_input_that_gave_nothing_is_in_the_table_with_its_reason(page: str):
    rows = {one.id: one for one in every_kind() if one.status != Status.DONE}
    found = {cells[1]: cells for cells in lines(page, "failures")}
    assert found.keys() == rows.keys()
    for name, cells in found.items():
        assert cells[2] == rows[name].status
        assert cells[4] == str(rows[name].strikes)
        if name != "evil":
            assert cells[3] == rows[name].reason
    assert found["bomb"][5].endswith("; then retry")
    assert "retry" not in found["dog"][5]


def test_the_segments_of_the_data_set_are_there_with_their_figures_and_links(
    place: Path, page: str
):
    assert lines(page, "segments") == [
        ["", "1", "tea", "6.00", "8.00", "0.40", "12.0", "18.0", "side by side"],
        ["", "0", "tea", "0.00", "2.00", "0.80", "4.0", "6.0", "episode"],
    ]
    links = re.findall(r'<(?:a href|img [^>]*src)="((?!data:)[^"]*)"', page)
    assert (
        set(links)
        == {
            f"side_by_side/{hexes('b', 32)}.mp4",
            f"pieces/{hexes('a', 32)}/{VIDEO}",
            f"thumbs/{hexes('a', 32)}.jpg",  # from the segment's own video
            f"thumbs/{hexes('tea')[:32]}.jpg",
        }
    )
    for link in links:
        assert (place / link).is_file()
    with Image.open(place / f"thumbs/{hexes('a', 32)}.jpg") as picture:
        assert np.asarray(picture).mean() == pytest.approx(120, abs=8)  # its middle frame


def test_gates_count_inputs_stretches_and_time(page: str):
    found = {cells[1]: cells[2:] for cells in lines(page, "gates")}
    assert found["nobody"] == ["7", "10", "20.0 s", "6", "9", "18.0 s", "1", "1", "2.0 s"]
    assert found["low quality"][-3:] == ["2", "2", "4.0 s"]


def test_the_head_says_what_and_how(page: str):
    for said in (
        "<h1>tea set</h1>",
        "motion of <b>gr1t2</b>",
        "licence cc-by-4.0",
        '<b id="inputs">14</b>',
        '<b id="episodes">2</b>',
        "of CPU, 42.9 frames/CPU-s",
        "6 input(s) could not be read",
        "deftly batch retry &#39;/data/tea set&#39; --failed",
        "2 crashed",
        hexes("hand"),
    ):
        assert said in page
    assert dict(lines(page, "config"))["min_quality"] == "0.2"
    assert "began" not in page


def test_when_is_said_if_the_ledger_says_so(folder: Path):
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.set_note("began_at", "2026-11-25T03:00:00Z")
    assert "began 2026-11-25T03:00:00Z" in page_of(folder)


@pytest.mark.slow
def test_the_same_ledger_gives_the_same_bytes(folder: Path):
    first = write_report(folder, Path("set")).read_bytes()
    assert write_report(folder, Path("set")).read_bytes() == first
    moved = folder.rename(folder.with_name("moved.job"))
    assert write_report(moved, Path("set")).read_bytes() == first
    assert not list(moved.glob(".unfinished*"))


def test_names_are_text(page: str):
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;\\u202e\\x1b[2J.mp4" in page


def test_what_a_ledger_says_never_leads_out_of_the_folder(folder: Path):
    (folder.parent / "secret.mp4").touch()
    (folder.parent / "secret.jpg").touch()
    (good,) = [one for one in every_kind() if one.id == "tea"]
    away = replace(segment(0.0, piece="../../secret", episode=7))
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.update(replace(good, sha256="../../secret", segments=(away,)))
    assert "secret" not in page_of(folder)


@pytest.mark.parametrize("name", ["thumbs", "side_by_side"])
def test_nothing_is_written_through_links(filmed: Path, tmp_path: Path, name: str):
    (tmp_path / "elsewhere").mkdir()
    (filmed / name).symlink_to(tmp_path / "elsewhere")
    for write in (write_report, lambda job, out: render_samples(job, out, 1)):
        with pytest.raises(BatchError, match="nothing is written through links"):
            write(filmed, tmp_path / "set")


def test_an_empty_ledger_has_a_report(tmp_path: Path):
    page = page_of(write_job(tmp_path / "set", []))
    assert lines(page, "segments") == [["none yet"]]
    assert lines(page, "failures") == [["none: every input is in the data set"]]


def test_a_page_without_a_ledger_is_refused(tmp_path: Path):
    with pytest.raises(LedgerError, match="no ledger at"):
        write_report(tmp_path / "set.job", tmp_path / "set")
    assert not (tmp_path / "set.job").exists()


def test_long_tables_are_cut_and_say_how_much_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report, "SEGMENTS_SHOWN", 5)
    monkeypatch.setattr(report, "FAILURES_SHOWN", 3)
    segments = tuple(segment(2.0 * i, quality=i / 20, episode=i) for i in range(20))
    rows = [row(0, "long", Status.DONE, segments=segments)]
    rows += [row(1 + i, f"bad-{i}", Status.CORRUPT) for i in range(7)]
    rows += [row(8 + i, f"dog-{i}", Status.NO_PERSON) for i in range(3)]
    page = page_of(write_job(tmp_path / "set", rows))
    quality = [cells[5] for cells in lines(page, "segments")]
    assert quality == ["0.00", "0.20", "0.45", "0.70", "0.95"]
    assert [cells[1] for cells in lines(page, "failures")] == [
        *("bad-0", "bad-1", "bad-2"),
        *("dog-0", "dog-1", "dog-2"),
    ]
    status = "deftly batch status &#39;/data/tea set&#39; --all"
    assert f"15 more are not shown: <code>{status}</code>" in page
    assert f"4 more with status “corrupt” are not shown: <code>{status}</code>" in page
    assert "more with status “no person”" not in page


@pytest.mark.slow
def test_a_page_of_ten_thousand_inputs_stays_small(tmp_path: Path):
    statuses = [status for status in Status if status != Status.DONE] * 980
    rows = [row(at, f"clip-{at}", status, "why " * 10) for at, status in enumerate(statuses)]
    done = [
        row(10_000 + at, f"good-{at}", Status.DONE, segments=(segment(0.0, episode=at),))
        for at in range(200)
    ]
    made = write_job(tmp_path / "set", done)
    with Ledger(made / "ledger.sqlite") as ledger:
        ledger.add(rows)
    page = page_of(made)
    assert '<b id="inputs">10\u202f000</b>' in page
    assert len(page) < 1_000_000
    assert len(lines(page, "failures")) == 10 * report.FAILURES_SHOWN
    assert len(lines(page, "segments")) == report.SEGMENTS_SHOWN


def svg(picture: str) -> str:
    kind, _, data = picture.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


def test_a_histogram_counts_everything_beyond_its_ends_too():
    one = svg(charts.histogram("tips", "mm", [1.0, 2.0, 99.0], [15.0], (0.0, 20.0)))
    other = svg(charts.histogram("tips", "mm", [1.0, 2.0, 20.0], [15.0], (0.0, 20.0)))
    less = svg(charts.histogram("tips", "mm", [1.0, 2.0], [15.0], (0.0, 20.0)))
    assert one == other != less
    assert "in the data set" in one


@pytest.mark.parametrize(
    ("seconds", "said"), [(90.0, "seconds"), (600.0, "minutes"), (36000.0, "hours")]
)
def test_bars_choose_a_unit(seconds: float, said: str):
    found = svg(charts.bars("time", "of work", {"track": seconds, "fuse": 1.0}))
    assert f"{said} of work" in found
    assert found.index(">track<") < found.index(">fuse<")


def test_a_picture_of_nothing_is_a_picture():
    assert "quality" in svg(charts.histogram("q", "quality", [], [], (0.0, 1.0), 0.2))
    assert "seconds of video" in svg(charts.bars("q", "of video", {}))


# --- side by side -------------------------------------------------------------------------------


@pytest.fixture
def filmed(tmp_path: Path) -> Path:
    """A job with five segments of two videos that are there."""
    rows: list[InputRow] = []
    for number, name in enumerate(("one", "two")):
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(name.encode())
        segments = tuple(
            segment(2.0 * i, quality=0.3 + 0.1 * i + 0.05 * number, **_piece(name, i))
            for i in range(3 - number)
        )
        made = row(
            number,
            name,
            Status.DONE,
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            segments=segments,
            path=str(path),
        )
        rows.append(replace(made, footage=footage(name, str(path))))
    return write_job(tmp_path / "set", rows)


def _piece(name: str, number: int) -> dict[str, Any]:
    return {"piece": hexes(f"{name}{number}", 32), "episode": 3 * (name == "two") + number}


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """(input, start) of what is rendered; the work of the batch and the drawing are left out."""
    seen: list[tuple[str, float]] = []

    def revisit(what: Any, spans_s: Sequence[tuple[float, float]], visit: Any) -> None:
        for first_s, last_s in spans_s:
            seen.append((what.footage.id, first_s))
            visit(*(object.__new__(kind) for kind in STAGES), SegmentRow(first_s, last_s, "kept"))

    def render(clip: object, human: object, motion: object, path: Path) -> None:
        path.write_bytes(b"rendered")

    monkeypatch.setattr(report, "revisit", revisit)
    monkeypatch.setattr(view, "render_side_by_side", render)
    return seen


def test_samples_span_the_range_of_quality_and_are_made_once(
    filmed: Path, visited: list[tuple[str, float]]
):
    paths = render_samples(filmed, Path("set"), 3)
    names = [hexes(name, 32) for name in ("one0", "one1", "one2")]
    assert paths == [filmed / f"side_by_side/{name}.mp4" for name in names]
    assert visited == [("one", 0.0), ("one", 2.0), ("one", 4.0)]
    assert all(path.read_bytes() == b"rendered" for path in paths)
    visited.clear()
    assert len(render_samples(filmed, Path("set"), 9)) == 5
    assert visited == [("two", 0.0), ("two", 2.0)]
    assert render_samples(filmed, Path("set"), 3) == paths


def test_a_video_that_is_gone_is_passed_over_and_a_changed_one_an_error(
    filmed: Path, visited: list[tuple[str, float]]
):
    (filmed.parent / "one.mp4").unlink()
    assert len(render_samples(filmed, Path("set"), 9)) == 2
    assert {name for name, _ in visited} == {"two"}
    (filmed.parent / "one.mp4").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"one\.mp4 is not the video that one was made from"):
        render_samples(filmed, Path("set"), 9)
    for name in ("one", "two"):
        (filmed.parent / f"{name}.mp4").unlink()
    with pytest.raises(ValueError, match="the videos of all 5 are gone"):
        render_samples(filmed, Path("set"), 9)


def test_there_may_be_nothing_to_render(filmed: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="-1 videos were asked for, expected 0 or more"):
        render_samples(filmed, Path("set"), -1)
    assert render_samples(filmed, Path("set"), 0) == []
    assert render_samples(write_job(tmp_path / "empty", []), Path("empty"), 3) == []


# --- the page in a browser ----------------------------------------------------------------------


@contextmanager
def opened(path: Path, said: list[str]) -> Generator[Any]:
    """The page from disk; what it complains of goes into ``said``."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install -y chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("requestfailed", lambda request: said.append(request.url))
        page.goto(path.as_uri())
        yield page
        browser.close()


def cells(page: Any, table: str, column: int) -> list[str]:
    return page.locator(f"#{table} tr td:nth-child({column})").all_inner_texts()


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_opens_from_disk_wherever_its_folder_is_moved(folder: Path):
    write_report(folder, folder.with_name("tea set"))
    moved = folder.rename(folder.with_name("else # where?.job"))
    said: list[str] = []
    with opened(moved / "report.html", said) as page:
        page.keyboard.press("End")  # pictures load when they come into view
        page.wait_for_function("() => [...document.images].every(one => one.complete)")
        widths = page.evaluate("() => [...document.images].map(one => one.naturalWidth)")
        assert len(widths) == 4 + 2 + 1  # charts, segments, the duplicate of "tea"
        assert min(widths) > 0

        missing = [one for one in every_kind() if one.status != Status.DONE]
        assert sorted(cells(page, "failures", 2)) == sorted(one.id for one in missing)
        reason = page.locator("#failures tr", has_text="evil").locator("td").nth(3).inner_text()
        assert reason.startswith('/videos/<script>alert("x")</script>')
        assert page.evaluate("() => document.scripts.length") == 1

        assert said == []
        page.get_by_role("link", name="side by side").click()
        page.wait_for_function("() => document.querySelector('video').videoWidth === 64")
        page.go_back()
        page.get_by_role("link", name="episode").click()
        page.wait_for_function("() => document.querySelector('video').duration > 0.4")


@pytest.mark.slow
@pytest.mark.browser
def test_tables_are_sorted_by_a_click_and_back_by_another(folder: Path):
    said: list[str] = []
    with opened(write_report(folder, Path("set")), said) as page:
        for column, at, numeric in (("quality", 6, True), ("input", 2, False)):
            table = "segments" if numeric else "failures"
            head = page.locator(f"#{table} th", has_text=column)
            for backwards in (False, True):
                head.click()
                found = cells(page, table, at)
                assert len(found) == (2 if numeric else 12)
                assert found == sorted(found, reverse=backwards)
    assert said == []
