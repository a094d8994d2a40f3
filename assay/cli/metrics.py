"""A daemon's figures for Prometheus (text format 0.0.4), over HTTP on an address of the owner's choice.

They are read from the status that the daemon writes every two seconds (assay.cli.folder), so that a scrape never waits for the daemon, nor the
daemon for a scrape. Money is in tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from assay.adapters.hardware import Gpu, gpus
from assay.cli.common import TOKEN, Trouble

FLAGS = ("chain_reachable", "draining")
NUMBERS = {
    "head": ("chain_head", "last block that the daemon has seen"),
    "chain_time": ("chain_time_seconds", "its time"),
    "known_peers": ("known_peers", "nodes that it knows"),
}


class Figures:
    """A collector: what `status.json` in `data` says, and the GPUs."""

    def __init__(self, data: Path, look: Callable[[], tuple[Gpu, ...]] = gpus) -> None:
        self._data, self._look = data, look

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily as Gauge

        try:
            status = json.loads((self._data / "status.json").read_text())
        except (OSError, ValueError):
            return
        yield Gauge("assay_pid", "process of the daemon", status.get("pid", 0))
        for key, (name, what) in NUMBERS.items():
            if isinstance(status.get(key), int):
                yield Gauge(f"assay_{name}", what, status[key])
        for key in FLAGS:
            if key in status:
                yield Gauge(f"assay_{key}", f"1 if so: {key.replace('_', ' ')}", int(bool(status[key])))
        if "credit" in status:
            yield Gauge("assay_credit_tokens", "earned and not withdrawn", status["credit"] / TOKEN)
        yield Gauge("assay_outstanding", "things that the daemon is working on", len(status.get("working_on", [])))
        segments = Gauge("assay_segments", "segments under way, by what this node does with them", labels=["phase"])
        for phase, count in sorted(Counter(str(s.get("phase")) for s in status.get("segments", [])).items()):
            segments.add_metric([phase], count)
        yield segments
        yield Gauge("assay_disputes", "disputes over this node's segments", len(status.get("disputes", [])))
        yield from self._gpus()

    def _gpus(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily as Gauge

        fields: dict[str, tuple[str, Callable[[Gpu], float | None]]] = {
            "gpu_temperature_celsius": ("of the chip", lambda gpu: gpu.temperature),
            "gpu_power_watts": ("drawn now", lambda gpu: gpu.power),
            "gpu_busy_ratio": ("share of time in which a kernel ran", lambda gpu: None if gpu.busy is None else gpu.busy / 100),
            "gpu_memory_used_bytes": ("by all programs", lambda gpu: gpu.used),
        }
        found = self._look()
        for name, (what, read) in fields.items():
            family = Gauge(f"assay_{name}", what, labels=["gpu", "name"])
            for gpu in found:
                if (value := read(gpu)) is not None:
                    family.add_metric([str(gpu.index), gpu.name], value)
            yield family


def serve(where: str, data: Path) -> Callable[[], None]:
    """Answers scrapes on `HOST:PORT`; gives what ends it. Raises Trouble."""
    from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

    host, _, port = where.rpartition(":")
    if not port.isdigit() or not host:
        raise Trouble(f"metrics cannot be served on {where!r}", "an address and a port are needed", "--metrics 127.0.0.1:9470", 2)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Figures(data))
    try:
        server, thread = start_http_server(int(port), host, registry)
    except (OSError, OverflowError) as error:
        raise Trouble(f"metrics cannot be served on {where}", str(error), "name a free port: --metrics 127.0.0.1:9470", 3) from None

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end
