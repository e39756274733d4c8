"""The documents: what they link to exists, and every option is in them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mmtrtvit.__main__ import main

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


@pytest.mark.parametrize('tool', [
    'train', 'test', 'deploy', 'profiler', 'visualize', 'get_flops', 'print_config', 'demo', 'check_tensorrt',
    'benchmark', 'analyze_blocks',
])  # fmt: skip
def test_every_option_is_in_the_documents(
    tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmtrtvit', tool, '--help'])
    with pytest.raises(SystemExit):
        main()
    known = set(re.findall(r'(?<![\w-])--[a-z][a-z0-9-]+', capsys.readouterr().out)) - {'--help'}
    assert len(known) >= 2
    text = '\n'.join(path.read_text(encoding='utf-8') for path in (ROOT / 'docs').glob('*.md'))
    missing = [option for option in sorted(known) if not re.search(rf'{option}(?![\w-])', text)]
    assert missing == []
