"""Results in words and pictures: Markdown, a page for the browser, PNG plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmtrtvit.benchmark.published import PublishedFigures, load_published
from mmtrtvit.benchmark.report import figures, html, markdown
from mmtrtvit.benchmark.report.accuracies import quoted
from mmtrtvit.benchmark.report.charts import Scatter, breakdowns, heats, scatters
from mmtrtvit.benchmark.report.content import groups_of, rebase, runs_of, select
from mmtrtvit.benchmark.results import Results
from mmtrtvit.fileio import atomic_write_text

__all__ = ['MARKDOWN', 'PAGE', 'rebase', 'render', 'select']

MARKDOWN, PAGE = 'report.md', 'report.html'


def render(results: Sequence[Results], out: Path, published: PublishedFigures | None = None) -> list[Path]:
    """Write a report of one or more runs.

    Args:
        results: The runs; none is compared with another.
        out: Folder to write to; it is made.
        published: Figures of the backbones; None for those of this package.

    Returns:
        The files: Markdown, the page, then the pictures.

    Raises:
        OSError: A file could not be written.
    """
    published = load_published() if published is None else published
    runs = runs_of(results)
    groups = [group for run in runs for group in groups_of(run)]
    used = quoted(published, [row for run in runs for row in run.results.rows])
    plots, maps = scatters(groups, used), heats(groups)
    pictures: dict[str, list[tuple[str, str]]] = {}
    files: list[Path] = []

    def keep(name: str, group: str, description: str) -> Path:
        pictures.setdefault(group, []).append((name, description))
        files.append(out / name)
        return out / name

    for scatter in best(plots):
        group = scatter.group
        title = f'Published accuracy ({scatter.metric}) against latency measured here. {group.title}'
        figures.draw_pareto(scatter, keep(f'pareto_{scatter.name}.png', group.name, title))
    for group, rows in breakdowns(groups):
        title = f'Where the time goes. {group.title}'
        figures.draw_breakdown(group, rows, keep(f'breakdown_{group.name}.png', group.name, title))
    for group in groups:
        own = [heat for heat in maps if heat.group is group]
        if own:
            title = f'TeraFLOPS and TeraParams by stage. {group.title}'
            figures.draw_heats(own, keep(f'blocks_{group.name}.png', group.name, title))
    text = atomic_write_text(out / MARKDOWN, markdown.document(runs, used, published.claims, maps, pictures))
    page = atomic_write_text(out / PAGE, html.page(runs, used, published.claims, plots, maps))
    return [text, page, *files]


def best(plots: Sequence[Scatter]) -> list[Scatter]:
    """Of each setting the plot to print: the first one with the most points; the page has all."""
    found: dict[int, Scatter] = {}
    for scatter in plots:
        known = found.get(id(scatter.group))
        if known is None or len(scatter.points) > 2 * len(known.points):
            found[id(scatter.group)] = scatter
    return list(found.values())
