"""The live display of a run: accepted / target for each label, yield, calls, tokens, price, ETA, bottleneck."""

from __future__ import annotations

from html import escape

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from graft.flows.feasibility import early_line, standing_out
from graft.flows.progress import Progress
from graft.schemas import sections
from graft.schemas.money import money

BAR_CELLS = 20
"""Characters of a bar in plain text."""


def one_line(progress: Progress) -> str:
    """The run's state in one plain line, for logs and pipes; the gateway's notes follow, each shown once."""
    parts = [
        progress.stage,
        _texts(progress),
        f"{progress.total_accepted}/{progress.total_wanted} accepted" if progress.total_wanted else "",
        _pending(progress),
        f"{progress.settled} candidates" if progress.run_id else "",
        early(progress),
        *_gateway_parts(progress),
        _eta(progress),
        standing_out(progress.settled, progress.reasons),
    ]
    new = [note for note in _notes(progress) if note not in progress.shown_notes]
    progress.shown_notes.update(new)
    return "\n".join([" · ".join(part for part in parts if part), *(f"note: {note}" for note in new)])


def early(progress: Progress) -> str:
    """Figures from the candidates so far: yield, unreadable replies, refusals, price of an accepted row."""
    return early_line(progress.settled, sum(progress.accepted.values()), progress.reasons, progress.price)


def render(progress: Progress) -> RenderableType:
    """The display as a rich renderable."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("label", style="bold")
    table.add_column("bar", width=30)
    table.add_column("count", justify="right")
    if progress.texts:
        done = progress.tried.get("", 0)
        table.add_row(Text("texts"), ProgressBar(total=progress.texts, completed=done), f"{done}/{progress.texts}")
    for label, wanted in progress.wanted.items():
        done = progress.accepted.get(label, 0)
        table.add_row(Text(label), ProgressBar(total=max(1, wanted), completed=min(done, wanted)), f"{done}/{wanted}")
    settled = [f"{progress.settled} candidates"] if progress.run_id else []
    facts = [*settled, _pending(progress), *_gateway_parts(progress), _eta(progress)]
    recent = [
        f"{one.label}: {sections.one_line(one.text)}{' (pending)' if one.id in progress.pending else ''}"
        for one in tuple(progress.recent)
    ]
    top = sorted(progress.reasons.items(), key=lambda item: -item[1])[:4]
    why = "rejected: " + ", ".join(f"{code} {count}" for code, count in top) if top else ""
    return Group(
        Text(f"{progress.dataset}  {progress.stage}", style="cyan"),
        table,
        Text("  ".join(fact for fact in facts if fact)),
        Text(early(progress)),
        Text(standing_out(progress.settled, progress.reasons), style="yellow"),
        *(Text(line, no_wrap=True, overflow="ellipsis") for line in recent),
        Text("\n".join((why, *(f"note: {note}" for note in _notes(progress)))), style="dim"),
    )


def bar(progress: Progress, *, ended: bool) -> tuple[str, str]:
    """The run's state in a notebook: a bar as HTML, and one line of text for frontends without HTML."""
    done, wanted = progress.total_accepted, progress.total_wanted
    text = " · ".join(
        part
        for part in (
            progress.dataset,
            "ended" if ended else progress.stage,
            _texts(progress),
            f"{done}/{wanted} accepted",
            *(() if ended else (_pending(progress), _eta(progress))),
            *_gateway_parts(progress),
            standing_out(progress.settled, progress.reasons),
        )
        if part
    )
    notes = [f"note: {note}" for note in _notes(progress)]
    width = min(BAR_CELLS, BAR_CELLS * done // max(1, wanted))
    line = "\n".join((f"{'█' * width}{'░' * (BAR_CELLS - width)} {text}", *notes))
    below = "".join(f"<br><small>{escape(note)}</small>" for note in notes)
    return f'<progress value="{done}" max="{max(1, wanted)}"></progress> {escape(text)}{below}', line


def _pending(progress: Progress) -> str:
    """Rows that the method accepted and the gates have not screened yet."""
    return f"{len(progress.pending)} pending" if progress.pending else ""


def _texts(progress: Progress) -> str:
    """Texts of a person's file that have been labelled or rejected."""
    return f"{progress.tried.get('', 0)}/{progress.texts} texts" if progress.texts else ""


def _eta(progress: Progress) -> str:
    eta = progress.eta_seconds
    return "" if not eta else f"ETA {int(eta) // 60}:{int(eta) % 60:02d}"


def _notes(progress: Progress) -> list[str]:
    return list(progress.gateway().notes) if progress.gateway is not None else []


def _gateway_parts(progress: Progress) -> list[str]:
    if progress.gateway is None:
        return []
    stats = progress.gateway()
    tokens = stats.prompt_tokens + stats.completion_tokens
    price = f"price {money(stats.price_usd, progress.local)}"
    parts = [f"{stats.calls} calls ({stats.cached} cached)", f"{tokens:,} tokens", price]
    if stats.waiting:
        parts.append(f"limited by {stats.waiting}")
    return parts
