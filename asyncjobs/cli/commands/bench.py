"""``asyncjobs bench``: measure on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncjobs.bench import arrays as bench_arrays
from asyncjobs.bench import clusters as bench_clusters
from asyncjobs.bench import clustersim
from asyncjobs.bench import flow as bench_flow
from asyncjobs.bench import jobs as bench_jobs
from asyncjobs.bench import parzen as bench_parzen
from asyncjobs.bench import plotting as bench_plotting
from asyncjobs.bench import service as bench_service
from asyncjobs.bench import sync as bench_sync

app: typer.Typer = typer.Typer()
bench: typer.Typer = typer.Typer(
    help="Measure on this machine, beside the libraries that are installed.", no_args_is_help=True
)
app.add_typer(bench, name="bench")

JsonPath = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.", dir_okay=False)]
HtmlPath = Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file.", dir_okay=False)]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer rounds: rougher figures in a fraction of the time.")]


@bench.command("jobs")
def jobs_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What a job costs: submitting, latency, maps, memory."""
    bench_jobs.main(json_path, html_path, quick)


@bench.command("arrays")
def arrays_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What a large array costs on its way to a job and back."""
    bench_arrays.main(json_path, html_path, quick)


@bench.command("parzen")
def parzen_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What worker processes gain: a density estimate in plain Python, serial and in parallel."""
    bench_parzen.main(json_path, html_path, quick)


@bench.command("sync")
def sync_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What scripts without await pay: handing over, waiting, the drop-in executors and Pool."""
    bench_sync.main(json_path, html_path, quick)


@bench.command("flow")
def flow_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """Whether queues and pipelines keep a model fed: overlap, per item, large batches, memory, start and end."""
    bench_flow.main(json_path, html_path, quick)


@bench.command("plotting")
def plotting_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What a training loop pays for its plots."""
    bench_plotting.main(json_path, html_path, quick)


@bench.command("clusters")
def clusters_command(
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Play a thousand workers on a virtual clock; the runner is real.")
    ] = False,
    json_path: JsonPath = None,
    html_path: HtmlPath = None,
    image_path: Annotated[
        Path | None, typer.Option("--image", help="Draw the picture into this file.", dir_okay=False)
    ] = None,
    quick: Quick = False,
) -> None:
    """What a lane over a cluster adds to the engine's own submit; or from where on one loop is the limit."""
    if simulate:
        clustersim.main(json_path, html_path, image_path, quick)
    elif image_path is not None:
        raise typer.BadParameter("--image is for --simulate; say --html")
    else:
        bench_clusters.main(json_path, html_path, quick)


@bench.command("service")
def service_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What the durable service does in a second, beside other queues that keep jobs on disk."""
    bench_service.main(json_path, html_path, quick)
