"""The built site, read as files and in a real browser, with every other host out of reach."""

import doctest
import http.server
import json
import os
import re
import shutil
import threading
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

import selfattn

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]
CHAPTERS = [name for name in PAGES if re.match(r"book/\d\d_", name)]
NOTEBOOKS = [name for name in PAGES if (ROOT / f"{name}.ipynb").exists()]
REPOSITORY = "self-attention-measured/selfattn"

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session", autouse=True)
def built():
    missing = [name for name in PAGES if not (SITE / f"{name}.html").exists()]
    if missing:
        pytest.fail(f"the site isn't built, or lacks {missing}: run `make book` first", pytrace=False)


# ---------------------------------------------------------------- the sources


def source(name):
    """A page's Markdown: the file, or a notebook's Markdown cells and the Markdown that its cells print."""
    if (path := ROOT / f"{name}.md").exists():
        return path.read_text()
    cells = json.loads((ROOT / f"{name}.ipynb").read_text())["cells"]
    texts = [cell["source"] for cell in cells if cell["cell_type"] == "markdown"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return "\n\n".join("".join(text) for text in texts + [data.get("text/markdown", "") for data in outputs])


def test_every_entry_of_the_bibliography_is_cited_and_every_citation_has_its_entry():
    entries = set(re.findall(r"^@\w+\{([^,\s]+),", (ROOT / "book/references.bib").read_text(), re.M))
    roles = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", "\n".join(map(source, PAGES)))
    cited = {key.strip() for keys in roles for key in keys.split(",")}
    assert entries - cited == set(), "nobody cites these: take them out of references.bib"
    assert cited - entries == set(), "these are cited and missing from references.bib"


@pytest.mark.parametrize("name", [name for name in PAGES if (ROOT / f"{name}.md").exists()])
def test_examples_in_the_text_run(name):
    examples = "\n".join(re.findall(r"^```python\n(>>> .*?)^```", source(name), re.M | re.S))
    test = doctest.DocTestParser().get_doctest(examples, {}, name, f"{name}.md", 0)
    report = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)


# ---------------------------------------------------------------- the built files


class Document(HTMLParser):
    """What the checks ask of a page: its anchors, links, resources, pictures and figures."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads, self.pictures = set(), [], [], []
        self.captions, self.in_caption = [], False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if (load := attrs.get("href" if tag == "link" else "src")) and tag != "a":
            self.loads.append(load)
        if tag == "img" and "/_images/" in attrs["src"]:  # ours; the theme's logos stand beside their names
            self.pictures.append(attrs)
        if tag == "figure":
            self.captions.append("")
        self.in_caption |= tag == "figcaption"

    def handle_endtag(self, tag):
        self.in_caption &= tag != "figcaption"

    def handle_data(self, data):
        if self.in_caption:
            self.captions[-1] += data


@cache
def document(path):
    return Document(path)


def files(*patterns):
    return sorted(path for pattern in patterns for path in SITE.rglob(pattern) if "mathjax" not in path.parts)


def test_no_file_of_the_site_loads_anything_from_another_host():
    away = [
        (path.name, url)
        for path in files("*.html")
        for url in document(path).loads
        if urlsplit(url).netloc or url.startswith("//")
    ]
    for path in files("*.css"):
        text = path.read_text()
        urls = re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)
        away += [(path.name, url) for url in urls if urlsplit(url).netloc]
    assert away == []


def test_every_internal_link_and_anchor_resolves():
    broken = []
    for path in files("*.html"):
        for link in document(path).links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.is_file():
                broken.append((str(path.relative_to(SITE)), link, "no such file"))
            elif url.fragment and unquote(url.fragment) not in document(target).anchors:
                broken.append((str(path.relative_to(SITE)), link, "no such anchor"))
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_pictures_say_what_they_show(name):
    page = document(SITE / f"{name}.html")
    for picture in page.pictures:
        assert len(picture.get("alt", "").split()) >= 6, (
            f"{picture['src']} has no alternative text that says it"
        )
    assert len(page.captions) >= len(page.pictures), "a picture stands in a figure with a caption"
    for caption in page.captions:
        assert len(caption.split()) >= 6, f"a caption states a finding, not {caption!r}"


@pytest.mark.parametrize("name", [*CHAPTERS, "book/ledger"])
def test_the_introduction_leads_to_every_chapter_and_to_the_ledger(name):
    text = (SITE / f"{TOC['root']}.html").read_text().partition("<article")[2].partition("</article>")[0]
    assert f'href="{Path(name).name}.html' in text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_opens_on_the_hosted_services_and_its_source_on_github(name):
    links = document(SITE / f"{name}.html").links
    assert f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/{name}.ipynb" in links
    assert any(
        link.startswith(f"https://mybinder.org/v2/gh/{REPOSITORY}/main?") and name in link for link in links
    )
    assert f"https://github.com/{REPOSITORY}/edit/main/{name}.ipynb" in links


def test_the_api_page_has_every_public_name_and_readable_signatures():
    page = SITE / "book/api.html"
    documented = {anchor.rpartition(".")[2] for anchor in document(page).anchors}
    assert set(selfattn.__all__) - documented == set()
    assert "Float[" not in page.read_text(), "the docstrings state the shapes, not the signatures"


# ---------------------------------------------------------------- in a browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def base():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "Chromium isn't installed: no check in a browser; `.ci/run` installs it, and fails without it"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def listen(context, *allowed):
    """A page that may ask only the allowed addresses, with what it asked elsewhere and what went wrong."""
    tab = SimpleNamespace(page=context.new_page(), away=[], errors=[], failed=[])

    def decide(route):
        if route.request.url.startswith((*allowed, "data:", "blob:")):
            return route.continue_()
        tab.away.append(route.request.url)
        return route.abort()

    context.route("**/*", decide)
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on("response", lambda response: response.ok or tab.failed.append(response.url))
    tab.page.on("requestfailed", lambda request: tab.failed.append(request.url))
    tab.page.on("console", lambda message: message.type == "error" and tab.errors.append(message.text))
    return tab


def show(tab, url):
    """Open the address and wait until its pictures are there and its formulas are set."""
    tab.page.goto(url)
    tab.page.evaluate(
        """async () => {
            if (window.MathJax?.startup) await MathJax.startup.promise;
            await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
            await document.fonts.ready;
        }"""
    )
    return tab


@pytest.fixture(scope="module", params=PAGES)
def tab(browser, base, request):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = show(listen(context, base), f"{base}/{request.param}.html")
    tab.name = request.param
    yield tab
    context.close()


@pytest.fixture(params=["light", "dark"])
def mode(tab, request):
    """The reader's system goes light or dark, and the page with it."""
    tab.page.emulate_media(color_scheme=request.param)
    tab.page.locator(f"html[data-theme={request.param}]").wait_for()
    tab.page.evaluate("Promise.all(document.getAnimations().map(colour => colour.finished))")
    return request.param


def test_pictures_are_there(tab):
    sizes = tab.page.evaluate("[...document.images].map(image => [image.src, image.naturalWidth])")
    assert all(width > 0 for _, width in sizes), sizes


def test_formulas_are_set(tab):
    assert tab.page.evaluate(
        "[...document.querySelectorAll('.math')].every(m => m.querySelector('mjx-container'))"
    )
    assert tab.page.locator("mjx-merror").count() == 0
    assert tab.page.evaluate("[...document.fonts].every(font => font.status !== 'error')")


@pytest.mark.parametrize("tab", CHAPTERS, indirect=True)
def test_solutions_are_folded_and_open_by_keyboard(tab):
    solutions = tab.page.locator(".solution").all()
    assert len(solutions) >= 3
    for solution in solutions:
        content = solution.locator("> section")
        assert not content.is_visible()
        solution.locator("button.toggle-button").press("Enter")
        assert content.is_visible()


@pytest.mark.parametrize("tab", NOTEBOOKS, indirect=True)
def test_code_and_what_it_prints_fit_their_boxes_in_a_notebook(tab):
    wide = tab.page.evaluate(
        """() => {
            document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'));
            return [...document.querySelectorAll('article pre')]
                .filter(e => e.scrollWidth > e.clientWidth)
                .map(e => [e.scrollWidth, e.clientWidth, e.innerText]);
        }"""
    )
    assert wide == []


def test_it_is_printed_whole_and_in_the_light_theme(tab):
    tab.page.emulate_media(color_scheme="dark", media="print")
    tab.page.locator("html[data-theme=dark]").wait_for()  # the theme is told a moment later
    tab.page.set_viewport_size({"width": 700, "height": 1000})
    theme = "document.documentElement.dataset.theme"
    printed = tab.page.evaluate(
        f"""() => {{
            const before = {theme};
            dispatchEvent(new Event('beforeprint'));
            const cut = [...document.querySelectorAll('article pre')]
                .filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText);
            const during = {theme};
            dispatchEvent(new Event('afterprint'));
            return [before, during, {theme}, cut];
        }}"""
    )
    tab.page.set_viewport_size({"width": 1280, "height": 900})
    tab.page.emulate_media(media="screen")
    assert printed == ["dark", "light", "dark", []]


def test_it_fits_a_phone(tab):
    tab.page.set_viewport_size({"width": 400, "height": 800})
    wide = tab.page.evaluate(
        """() => {
            const scrolls = e =>
                e && (getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
            const wide = e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement);
            return [document.documentElement.scrollWidth, [...document.querySelectorAll('article *')]
                .filter(wide).map(e => e.outerHTML.slice(0, 120))];
        }"""
    )
    tab.page.set_viewport_size({"width": 1280, "height": 900})
    assert wide == [400, []]


def test_anyone_can_read_it(tab, mode):
    """WCAG AA, by axe-core: nothing critical or serious. The introduction is checked with its frame."""
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] if mode == "light" else ["color-contrast"]
    options = {"runOnly": rules, "resultTypes": ["violations"], "preload": False}
    if tab.name != TOC["root"]:  # axe visits each token of the code and each glyph of a formula
        tab.page.locator("pre, mjx-container").evaluate_all(
            "all => all.forEach(e => e.replaceChildren(e.innerText))"
        )
    results = Axe().run(tab.page, None if tab.name == TOC["root"] else "article", options)
    found = [
        (rule["id"], node["target"], node["failureSummary"])
        for rule in results.response["violations"]
        for node in rule["nodes"]
        if rule["impact"] in ("critical", "serious")
        # docutils calls the entries of a bibliography doc-biblioentry, and axe wants listitem
        and (rule["id"], node["target"]) != ("aria-required-children", [".citation-list"])
    ]
    assert found == []


def test_a_page_asks_no_other_host_and_reports_no_error(tab):
    assert tab.away == []
    assert tab.failed == []
    assert tab.errors == []


def test_search_finds_the_softmax(browser, base):
    context = browser.new_context(color_scheme="dark")
    tab = listen(context, base)
    tab.page.goto(f"{base}/search.html?q=softmax")
    tab.page.locator("#search-results li a").first.wait_for()
    assert tab.page.locator("#search-results li a").count() >= 3
    assert (tab.away, tab.errors) == ([], [])
    context.close()


def test_a_chapter_reads_well_from_a_folder(browser):
    context = browser.new_context()
    tab = show(listen(context, "file://"), (SITE / f"{CHAPTERS[0]}.html").as_uri())
    assert tab.away == []
    # the theme preloads fonts of icons in a way that only servers allow; it draws the icons without them
    assert [url for url in tab.failed if "/vendor/fontawesome/" not in url] == []
    assert tab.page.locator("mjx-container").count() > 0
    assert tab.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert tab.page.evaluate("[...document.fonts].every(font => font.status !== 'error')")
    context.close()
