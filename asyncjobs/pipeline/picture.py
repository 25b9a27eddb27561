"""A pipeline's report as a picture: what each stage, and the consumer, did with its time."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncjobs.page import escape
from asyncjobs.report import LANE_COLORS, STATE_COLORS, dress, graph_objects, seconds_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from asyncjobs.pipeline.report import ConsumerStats, StageStats

COLORS = {"busy": LANE_COLORS[0], "starved": STATE_COLORS["TIMED_OUT"], "blocked": STATE_COLORS["CANCELLED"]}
"""The same that jobs have which work, come late, and are not wanted."""
CONSUMER = "the consumer"
LINE = 100
"""Characters of the verdict in a line."""


def drawn(stages: Sequence[StageStats], consumer: ConsumerStats, verdict: str) -> Figure:
    """A bar for each stage, from the source at the top to the consumer at the bottom."""
    names = [*(stage.name for stage in stages), CONSUMER]
    shares = {
        "busy": [*(stage.busy for stage in stages), 1 - consumer.share if consumer.seconds else 0.0],
        "starved": [*(stage.starved for stage in stages), consumer.share],
        "blocked": [*(stage.blocked for stage in stages), 0.0],
    }
    hover = [*map(_stage_told, stages), _consumer_told(consumer)]
    lines = textwrap.wrap(verdict, LINE)
    figure = dress(graph_objects().Figure(), "What holds the pipeline up", verdict)
    for state, values in shares.items():
        figure.add_trace(
            graph_objects().Bar(
                orientation="h",
                y=list(range(len(names))),
                x=[round(value, 4) for value in values],
                name=state,
                marker={"color": COLORS[state], "line": {"width": 0}},
                customdata=hover,
                hovertemplate="<b>%{y}</b>: " + state + " %{x:.0%}<br>%{customdata}<extra></extra>",
                text=[f"{value:.0%}" if value >= 0.06 else "" for value in values],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={"color": "#ffffff"},
            )
        )
    # Places by number: two stages may have one name.
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=list(map(escape, names)), autorange="reversed", automargin=True
    )
    figure.update_yaxes(showgrid=False, ticks="outside", ticklen=6, tickcolor="rgba(0,0,0,0)")
    figure.update_xaxes(range=[0, 1], tickformat=".0%", title="share of the time that the consumer's loop took")
    figure.update_layout(barmode="stack", bargap=0.35, legend_traceorder="normal")
    subtitle = "".join(f"<br><span style='font-size:13px'>{escape(line)}</span>" for line in lines)
    figure.update_layout(
        title={"text": f"What holds the pipeline up{subtitle}", "yref": "container", "y": 1, "yanchor": "top"},
        title_pad_t=22,
        margin_t=88 + 18 * len(lines),
        height=164 + 18 * len(lines) + 44 * len(names),
    )
    return figure


def _stage_told(stage: StageStats) -> str:
    """Its other figures."""
    said = [f"{stage.lane}, concurrency {stage.concurrency}, {stage.items:,} items, {stage.skipped:,} skipped"]
    if stage.items:
        said.append(f"a call took {seconds_text(stage.p50)} (p50), {seconds_text(stage.p95)} (p95)")
    if stage.lane != "source" and stage.is_measured:
        said.append(f"something was there to be taken {stage.occupancy:.0%} of the time")
    if stage.ordered and stage.turn >= 0.05:
        said.append(f"{stage.turn:.1f} finished items waited for their turn")
    return "<br>".join(map(escape, said))


def _consumer_told(consumer: ConsumerStats) -> str:
    return escape(f"waited {seconds_text(consumer.waited)} of {seconds_text(consumer.seconds)}")
