"""The page: whole in itself, safe, and within its window in a real browser."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from amalia_bench.choices import latest
from amalia_bench.page import render
from amalia_bench.pictures import pictures
from amalia_bench.report import make_report
from bench.example_records import everything, quality_body, row, speed_body

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars", "--allow-file-access-from-files",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000",
)  # fmt: skip
ON_RECORD = Path(__file__).parents[2] / "kernels_bench/results/report.html"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
# Told by the page itself: its window, its own width, what stands out on the right of it, and what it asked for
PROBE = """
addEventListener('load', () => {
  const boxed = one => one.closest('.box') && !one.classList.contains('box');
  const out = [...document.body.querySelectorAll('*')].filter(one => !boxed(one) && one.getClientRects().length
    && (one.getBoundingClientRect().right > innerWidth + 0.5 || one.getBoundingClientRect().left < -0.5));
  parent.postMessage({width: innerWidth, scroll: document.documentElement.scrollWidth,
    out: out.slice(0, 5).map(one => one.outerHTML.slice(0, 120)),
    drawn: [...document.querySelectorAll('figure svg')].filter(one => one.getClientRects().length).length,
    asked: performance.getEntriesByType('resource').map(one => one.name)}, '*');
});
"""


@pytest.fixture(scope="module")
def page() -> str:
    rows = latest(
        [
            *everything(),
            row("speed", speed_body(), name=HOSTILE),
            row("quality", quality_body(0.02, HOSTILE)),
            row("quality", quality_body(), name=HOSTILE),
        ]
    )
    return render(make_report(rows), pictures(rows))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def tags(page: str) -> Tags:
    read = Tags()
    read.feed(page)
    return read


def test_nothing_in_the_page_names_another_place(page: str) -> None:
    assert "://" not in page and "url(//" not in page and "@import" not in page


def test_every_address_lies_in_the_page(tags: Tags) -> None:
    addresses = {str(told[name]) for _, told in tags.found for name in ("href", "xlink:href", "src") if name in told}
    assert len(addresses) > 20 and all(address.startswith(("#", "data:")) for address in addresses)


def test_the_page_forbids_itself_what_it_does_not_need(tags: Tags) -> None:
    policy = [
        told["content"]
        for tag, told in tags.found
        if tag == "meta" and told.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_what_stood_in_a_record_is_text(page: str, tags: Tags) -> None:
    assert html.escape(HOSTILE) in page
    assert not {tag for tag, _ in tags.found} & {"script", "img", "iframe", "object"}
    assert not [name for _, told in tags.found for name in told if name.startswith("on")]


def test_every_tag_is_closed_in_its_order(tags: Tags) -> None:
    assert (tags.wrong, tags.open) == ([], [])


def test_no_two_things_have_one_name(tags: Tags) -> None:
    names = [told["id"] for _, told in tags.found if "id" in told]
    assert len(names) == len(set(names)) > 30


def test_every_reference_finds_what_it_names(page: str, tags: Tags) -> None:
    names = {told["id"] for _, told in tags.found if "id" in told}
    wanted = {
        str(told[key]).removeprefix("#")
        for _, told in tags.found
        for key in ("href", "xlink:href")
        if str(told.get(key, "")).startswith("#")
    }
    wanted |= {one for _, told in tags.found for one in (told.get("aria-labelledby") or "").split()}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert len(wanted) > 20 and wanted <= names


def test_every_picture_is_told_to_those_who_do_not_see(tags: Tags) -> None:
    drawn = [told for tag, told in tags.found if tag == "svg"]
    assert len(drawn) == 14 and all(told["role"] == "img" and told["aria-labelledby"] for told in drawn)


def test_every_table_scrolls_in_a_box_that_a_keyboard_reaches(tags: Tags) -> None:
    boxes = [told for _, told in tags.found if told.get("class") == "box"]
    assert len(boxes) == len([tag for tag, _ in tags.found if tag == "table"]) > 10
    assert all(told["tabindex"] == "0" and (told.get("aria-labelledby") or told.get("aria-label")) for told in boxes)


@dataclass(frozen=True)
class Seen:
    """A page as a browser showed it, at each width."""

    text: str
    told: dict[int, dict[str, object]]


@pytest.fixture(scope="module", params=["invented", "on record"])
def seen(request: pytest.FixtureRequest, page: str, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Open a page in a browser at two widths, each in a frame, for a window is never as narrow as a phone's."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    text = page if request.param == "invented" else ON_RECORD.read_text("utf-8")
    folder = tmp_path_factory.mktemp("browser")
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy
    (folder / "page.html").write_text(
        text.replace(policy[0], "").replace("</head>", f"<script>{PROBE}</script></head>"), "utf-8"
    )
    frames = "".join(
        f'<iframe src="page.html" style="border:0;width:{width}px;height:844px"></iframe>' for width in (390, 1280)
    )
    listen = "const told = []; addEventListener('message', one => { told.push(one.data); document.getElementById('told').textContent = JSON.stringify(told); });"
    (folder / "frames.html").write_text(
        f'<!DOCTYPE html><pre id="told"></pre><script>{listen}</script>{frames}', "utf-8"
    )
    words = [
        CHROMIUM,
        *QUIET,
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1800,900",
        "--dump-dom",
        (folder / "frames.html").as_uri(),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], done.stderr[-2000:]
    return Seen(text, {told["width"]: told for told in json.loads(html.unescape(found[1]))})


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(seen: Seen, width: int) -> None:
    assert seen.told[width]["out"] == []
    assert seen.told[width]["scroll"] <= width


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_asks_for_nothing(seen: Seen, width: int) -> None:
    assert seen.told[width]["asked"] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_each_picture_is_shown_once(seen: Seen, width: int) -> None:
    assert seen.told[width]["drawn"] == seen.text.count("<figure>") > 0


def test_the_template_is_part_of_the_package() -> None:
    from amalia_bench.page import TEMPLATE

    assert TEMPLATE.parent == Path(render.__code__.co_filename).parent and TEMPLATE.is_file()
