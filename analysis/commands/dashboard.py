"""python -m analysis dashboard: one HTML page to compare runs on, as a file or served while they go on."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.dashboard.page import build_page
from analysis.dashboard.serve import Server
from analysis.dashboard.watched_runs import PageContent, WatchedRuns
from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import user_path

MAX_MEGABYTES = 25.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=user_path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--out", type=user_path, help="HTML file to write; with --serve it is kept up to date")
    parser.add_argument("--serve", action="store_true", help="serve the page and refresh it while runs go on")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address for --serve (default: 127.0.0.1, this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8765, help="port for --serve (default: 8765; 0: any free one)")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between refreshes (default: 5)")
    parser.add_argument(
        "--max-mb",
        type=float,
        default=MAX_MEGABYTES,
        help="size of the page; images are left out above it (default: 25)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, serve it, or both.

    Raises:
        UserError: no runs, or an argument that cannot be.
    """
    if args.out is None and not args.serve:
        raise UserError("say what to make: --out page.html, --serve, or both")
    for name in ("max_mb", "interval"):
        if not getattr(args, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} must be above 0, got {getattr(args, name):g}")
    source = WatchedRuns(args.runs, int(args.max_mb * 1e6))
    content = source.read_or_refuse()
    if args.out is not None:
        size = write_page(args.out, content)
        print(f"{args.out}: {source.num_runs} runs, {size / 1e6:.1f} MB")
        if size > source.max_bytes:
            print(f"note: the tables and curves alone take more than the {args.max_mb:g} MB of --max-mb")
    if args.serve:

        def update(changed: PageContent) -> None:
            if args.out is not None:
                write_page(args.out, changed)

        server = Server((args.host, args.port), source, content, args.interval, update)
        print(f"{source.num_runs} runs at {server.url} (Ctrl-C ends it)", flush=True)
        server.run()
    return 0


def write_page(out: Path, content: PageContent) -> int:
    """Write the page as a whole, its folder too where it is missing; returns its size in bytes.

    Raises:
        UserError: it cannot be written.
    """
    page = build_page(content.data, content.views)
    write_bytes_atomic(out, page)
    return len(page)
