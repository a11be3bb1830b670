"""What a run says: medians per cell, the ratios the product is held to, and the set-up they came from."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from load import Cell

BEGIN = "<!-- bench.py --write: begin -->"
END = "<!-- bench.py --write: end -->"
_PACKAGES = (
    "uvloop", "httptools", "uvicorn", "starlette", "orjson", "cryptography", "pyjwt", "httpx2",
)  # fmt: skip
_RATIOS = (
    ("full", "nginx", "<= 12 (aim 7, goal 3.5)"),
    ("relay", "nginx", "<= 3.5 (aim 2.5)"),
    ("naive", "full", ">= 10 (aim 20)"),
)
_RATIO_C = 32
_LATENCY_BAR_MS = 0.8

Key = tuple[str, int]


@dataclass(slots=True)
class Results:
    """The cells of all rounds by (row, c), the timed fdatasyncs, and the rows that did not run."""

    cells: dict[Key, list[Cell]] = field(default_factory=dict)
    fdatasync_ms: list[float] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def honest(self) -> bool:
        """No row failed to start and no answer was wrong."""
        return not self.failed and not any(c.errors for cells in self.cells.values() for c in cells)


def as_rows(results: Results) -> list[dict[str, Any]]:
    """The medians, one flat object per cell. `errors` is the sum over all rounds."""
    return [_row(name, c, cells) for (name, c), cells in results.cells.items()]


def _row(name: str, c: int, cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        "row": name,
        "c": c,
        "cpu_us": round(median(cell.cpu_us for cell in cells), 1),
        "rps": round(median(cell.rps for cell in cells), 1),
        "p50_ms": round(median(cell.p50_ms for cell in cells), 3),
        "p99_ms": round(median(cell.p99_ms for cell in cells), 3),
        "rss_mib": round(median(cell.rss_mib for cell in cells), 1),
        "errors": sum(cell.errors for cell in cells),
    }


def as_markdown(results: Results, setup: Mapping[str, str]) -> str:
    """The table, the ratios and the set-up."""
    lines = [
        "| row | c | CPU us/call (min-max) | busy | calls/s | p50 ms | p99 ms | RSS MiB |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for (name, c), cells in results.cells.items():
        row = _row(name, c, cells)
        cpu = sorted(cell.cpu_us for cell in cells)
        mark = f" (**{row['errors']} errors**)" if row["errors"] else ""
        lines.append(
            f"| {name}{mark} | {c} | {row['cpu_us']:,.1f} ({cpu[0]:,.1f}-{cpu[-1]:,.1f}) "
            f"| {median(cell.busy for cell in cells):.0%} | {row['rps']:,.0f} "
            f"| {row['p50_ms']:,.2f} | {row['p99_ms']:,.2f} | {row['rss_mib']:.0f} |"
        )
    lines.append("")
    lines += [f"- {name} did not run: {why}" for name, why in results.failed.items()]
    lines += [*_ratios(results), *_added_latency(results)]
    lines += [f"- {name}: {value}" for name, value in setup.items()]
    return "\n".join(lines) + "\n"


def _ratios(results: Results) -> Iterable[str]:
    for above, below, bar in _RATIOS:
        top, bottom = (results.cells.get((name, _RATIO_C)) for name in (above, below))
        if top and bottom:
            # Round by round first: what disturbs one round disturbs both sides of its ratio.
            pairs = zip(top, bottom, strict=False)
            ratio = median(a.cpu_us / b.cpu_us for a, b in pairs if b.cpu_us)
            yield f"- CPU {above} / {below} at c={_RATIO_C}: **{ratio:.1f}x** (bar {bar})"


def _added_latency(results: Results) -> Iterable[str]:
    full, direct = (results.cells.get((name, 1)) for name in ("full", "direct"))
    if not (full and direct and results.fdatasync_ms):
        return
    added = median(cell.p50_ms for cell in full) - median(cell.p50_ms for cell in direct)
    flush = median(results.fdatasync_ms)
    yield (
        f"- added latency of full over direct at c=1, p50: **{added:.2f} ms** "
        f"(bar: one fdatasync of {flush:.2f} ms here + {_LATENCY_BAR_MS} = "
        f"{flush + _LATENCY_BAR_MS:.2f} ms)"
    )


def setup(state: Path, options: Mapping[str, str]) -> dict[str, str]:
    """The machine and the software, in words. `state` is where logs and databases were written."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "machine": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores; Linux {platform.release()}",
        "disk": f"{_filesystem(state)} (an fdatasync on tmpfs costs nothing: a tmpfs here flatters us)",
        "software": ", ".join([f"Python {platform.python_version()}", *_versions()]),
        "load average at the start": load,
        **options,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(folder: Path) -> str:
    """The type of the file system `folder` lies on: that of the longest mount point above it."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        inside = folder.is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def _versions() -> Iterable[str]:
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def write_between(path: Path, block: str) -> None:
    """Replace what stands between the two markers in `path`. Raises ValueError where they are absent."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} lacks the markers {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{block}{END}{after}")
