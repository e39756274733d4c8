"""The documents: what they link to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'docs').glob('*.md'))]


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_exist(document: Path) -> None:
    links = re.findall(r'\]\(([^)#\s]+)[^)]*\)', document.read_text(encoding='utf-8'))
    local = [link for link in links if '://' not in link and not link.startswith('mailto:')]
    assert [link for link in local if not (document.parent / link).exists()] == []


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_configs_and_tools_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding='utf-8')
    named = set(re.findall(r'\b((?:configs|tools|tests|docs)/[\w/.-]+\.(?:py|md|png))', text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
