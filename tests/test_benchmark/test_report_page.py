"""A report of everything: its Markdown; its page, whole without a network, alive in a browser, its text never code."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mmtrtvit.benchmark.report import render
from tests.test_benchmark.browser import PROGRAM, Browser, browse
from tests.test_benchmark.reports import HOSTILE, block_run, cpu_run, gpu_run, make_results, published

VOID = {'meta', 'input', 'br', 'hr', 'img', 'link'}


class Page(HTMLParser):
    """Elements, text, and whether every element that opens also closes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.cells: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or '' for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ('td', 'th'):
            self.cells.append('')
        if tag == 'script':
            self.scripts.append('')

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or '' for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == 'script':
            self.scripts[-1] += data
        elif {'td', 'th'} & set(self.open):
            self.cells[-1] += data

    def all(self, tag: str, name: str = '') -> list[dict[str, str]]:
        return [attributes for found, attributes in self.elements if found == tag and (not name or name in attributes)]


@pytest.fixture(scope='module')
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = render([cpu_run(), gpu_run(), block_run()], tmp_path_factory.mktemp('report'), published())
    return files[1]


@pytest.fixture(scope='module')
def page(file: Path) -> Page:
    return Page(file.read_text(encoding='utf-8'))


def test_the_page_is_whole_in_itself(page: Page) -> None:
    assert not page.all('link')
    assert not page.all('img')
    assert not [attributes for _, attributes in page.elements if 'src' in attributes]
    links = {attributes['href'] for attributes in page.all('a')}
    assert {link for link in links if not link.startswith('#')} == {'https://arxiv.org/abs/2207.05501'}
    ids = [attributes['id'] for _, attributes in page.elements if 'id' in attributes]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith('#')} <= set(ids)
    labelled = {attributes['aria-labelledby'] for _, attributes in page.elements if 'aria-labelledby' in attributes}
    assert labelled <= set(ids)


def test_foreign_text_is_text(file: Path, page: Page) -> None:
    assert len(page.scripts) == 1  # ours
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    policy = next(a['content'] for a in page.all('meta') if a.get('http-equiv') == 'Content-Security-Policy')
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith('on')]
    assert HOSTILE in page.cells  # shown as it is
    assert not re.search(r'<script>document', file.read_text(encoding='utf-8'))
    assert {tag for tag, _ in page.elements} <= {
        'html', 'head', 'meta', 'title', 'style', 'body', 'a', 'header', 'h1', 'h2', 'p', 'strong', 'main', 'section',
        'form', 'label', 'input', 'select', 'option', 'button', 'output', 'div', 'table', 'thead', 'tbody', 'tr', 'th',
        'td', 'figure', 'figcaption', 'svg', 'line', 'text', 'polyline', 'g', 'path', 'circle', 'span', 'ul', 'li',
        'details', 'summary', 'pre', 'code', 'dl', 'dt', 'dd', 'script',
    }  # fmt: skip


def test_every_row_and_every_point_is_there(page: Page) -> None:
    measured = sum(row.latency is not None for run in (cpu_run(), gpu_run(), block_run()) for row in run.rows)
    assert len(page.all('button', 'data-sort')) > 10
    rows = page.all('th', 'data-value')
    assert len(rows) == measured
    tips = [a['data-tip'] for a in page.all('g', 'data-tip')]
    assert all('published: ' in tip and 'measured here' in tip for tip in tips)
    assert all('a reconstruction, not trained by us' in tip for tip in tips if tip.startswith('TRTVIT'))
    assert all(a.get('tabindex') == '0' and a.get('aria-label') for a in page.all('g', 'data-tip'))
    assert page.all('tr', 'data-noisy')
    assert 'baseline' in page.cells


def test_a_page_of_nothing(tmp_path: Path) -> None:
    text = render([make_results([])], tmp_path, published())[1].read_text(encoding='utf-8')
    assert 'This run has no rows.' in text
    assert not Page(text).all('table')


def test_markdown_of_everything(file: Path) -> None:
    text = file.with_name('report.md').read_text(encoding='utf-8')
    for name in re.findall(r'!\[.*?\]\((.+?)\)\n', text):
        assert file.with_name(name).is_file()
    assert len(re.findall(r'^!\[', text, re.MULTILINE)) == 6 == len(list(file.parent.glob('*.png')))
    assert '**This run was interrupted: it has fewer rounds than were asked for, or lacks rows.**' in text
    assert '**This run was noisy: other processes kept 0.4 of 2 cores busy during the rounds.**' in text
    assert 'fp16 was asked for, fp32 obtained (12 % in fp16)' in text
    assert (
        '| TRTVIT-C | COCO box AP (Mask R-CNN 1x) | 44.7 % | [Next-ViT, table 5](<https://arxiv.org/abs/2207.05501>)'
        in text
    )
    assert '](<javascript' not in text
    outside_code = re.sub(r'(`+).*?\1', '', text)
    assert '<script' not in outside_code.replace('\\<script', '')
    assert HOSTILE not in outside_code
    for lines in re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE):  # a row of a table has as many cells as its head
        assert len({len(re.findall(r'(?<!\\)\|', line)) for line in lines.splitlines()}) == 1, lines


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip('no Chromium is installed')
    with browse(tmp_path_factory.mktemp('profile')) as found:
        yield found


def column(browser: Browser, number: int) -> list[str]:
    """The cells of a column of the first table, of the rows that are shown."""
    text = browser.evaluate(
        "Array.from(document.querySelectorAll('[data-sheet] tbody')[0].rows).filter(row => !row.hidden)"
        f".map(row => row.cells[{number}].dataset.value).join('\\n')"
    )
    return str(text).split('\n')


def change(browser: Browser, selector: str, what: str) -> None:
    """Set a control as a user does."""
    event = "dispatchEvent(new Event('change', {bubbles: true}))"
    browser.evaluate(f"(() => {{ const it = document.querySelector('{selector}'); it.{what}; it.{event} }})()")


def test_in_a_browser_the_page_runs_its_own_script_only(browser: Browser, file: Path) -> None:
    browser.messages.clear()
    browser.requests.clear()
    browser.open(file)
    assert browser.evaluate('document.title') == 'mmtrtvit benchmark'
    assert browser.messages == []
    assert browser.requests == [file.resolve().as_uri()]
    browser.open(file, width=420)
    assert browser.evaluate('document.documentElement.scrollWidth') <= 420
    light = browser.evaluate('getComputedStyle(document.body).backgroundColor')
    browser.open(file, dark=True)
    assert (light, browser.evaluate('getComputedStyle(document.body).backgroundColor')) == (
        'rgb(255, 255, 255)', 'rgb(20, 23, 27)',
    )  # fmt: skip


def test_in_a_browser_the_table_sorts_by_keyboard(browser: Browser, file: Path) -> None:
    browser.open(file)
    heads = browser.evaluate(
        "Array.from(document.querySelectorAll('[data-sheet] thead')[0].rows[0].cells).map(h => h.textContent)"
    )
    number = heads.index('Median, ms')
    browser.evaluate(f"document.querySelectorAll('[data-sheet] thead button')[{number}].focus()")
    browser.press('Enter', '\r')
    values = [float(value) for value in column(browser, number)]
    assert values == sorted(values)
    assert len(values) == 53
    browser.press('Enter', '\r')
    values = [float(value) for value in column(browser, number)]
    assert values == sorted(values, reverse=True)
    assert browser.evaluate("document.querySelectorAll('th[aria-sort=descending]').length") == 1
    number = heads.index('Times as fast')
    for _ in range(2):  # rows without a ratio are last either way
        browser.evaluate(f"document.querySelectorAll('[data-sheet] thead button')[{number}].click()")
        values_ = column(browser, number)
        assert values_ == [value for value in values_ if value] + [''] * values_.count('')


def test_in_a_browser_the_table_filters(browser: Browser, file: Path) -> None:
    browser.open(file)
    browser.press('/', '/')  # to the search
    for letter in 'trtvit':
        browser.press(letter, letter)
    assert set(column(browser, 1)) == {'trtvit-c', 'trtvit-d'}
    output = "document.querySelector('[data-sheet] output').textContent"
    assert browser.evaluate(output) == '8 of 53 rows'
    change(browser, '[data-sheet] [data-calm]', 'checked = true')
    assert browser.evaluate(output) == '7 of 53 rows'
    change(browser, '[data-sheet] select', "value = 'classification'")
    assert browser.evaluate(output) == '2 of 53 rows'
    browser.evaluate("document.querySelector('[data-sheet] form').reset()")
    browser.evaluate('new Promise(done => setTimeout(done, 20))')
    assert browser.evaluate(output) == '53 rows'


def test_in_a_browser_a_point_explains_itself(browser: Browser, file: Path) -> None:
    browser.open(file)
    browser.hover('[data-plot]:not([hidden]) .mark.ours .dot')
    tip = "document.querySelector('.tip')"
    assert browser.evaluate(f'{tip}.hidden') is False
    text = browser.evaluate(f'{tip}.textContent').split('\n')
    assert text[0] == 'TRTVIT-C'
    assert '44.7 % COCO box AP (Mask R-CNN 1x), published: Next-ViT, table 5' in text
    browser.press('Escape')
    assert browser.evaluate(f'{tip}.hidden') is True
    browser.press('Tab')
    browser.evaluate("document.querySelector('[data-plot]:not([hidden]) .mark').focus()")
    assert browser.evaluate(f'{tip}.hidden') is False
    shown = (
        "Array.from(document.querySelectorAll('[data-plot]')).filter(f => !f.hidden).map(f => f.dataset.plot).join()"
    )
    assert browser.evaluate(shown) == '1'
    change(browser, '[data-choose]', "value = '2'")
    assert browser.evaluate(shown) == '2'
