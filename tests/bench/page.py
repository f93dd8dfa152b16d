"""The page: samples in, Markdown out. Pure, and it says only what the samples show."""

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from statistics import median

from tests.bench.measure import Sample

type Results = dict[str, dict[str, list[Sample]]]
"""Samples by work, then by contender."""

BASELINE = "mitmproxy, scanning"

_HEAD = """# Benchmarks

Requests a second, and CPU time for a request, of Webguard and of stock mitmproxy, measured side by
side. `make bench` writes this page; do not edit it.

"""

_METHOD = """
## How to read it

- **Ratios, not absolute numbers, and few of them.** The load, the origin (nginx) and the proxy
  share this machine's cores, and other work ran on it at the same time: see the load average.
  CPU for a request counts user and system time of all processes of a contender, in steps of 10 ms,
  and includes opening the connections; where few requests fit into a measurement it is coarse, too.
  Where the brackets of two contenders overlap, their order is not shown.
- **Interleaved:** in each round every contender does each kind of work in turn. Given are medians
  of the rounds, the lowest and the highest in brackets, and after the x how many times the value
  of scanning mitmproxy that is.
- **Webguard** runs as in production: the redirect of a cgroup, unprivileged workers, the signer,
  the owner of each connection looked up, every body hashed and scanned, an event printed and
  recorded for each response. Its CPU is that of all its processes; the last table splits it.
- **mitmproxy, scanning** is `mitmdump` of the same version behind a plain redirect, with an addon
  that scans each body with the same compiled rules (those that Webguard ships). It looks up no
  owner, hashes nothing, writes no event and keeps the CA's key in the process. **No addon** is the
  same without scanning.
- **Direct** is the client and the origin without a proxy: the bound of this setup.
- Before the load, each contender is proved to be in the path of HTTPS, and to stop EICAR or not.
- Bodies are random bytes of 1, 10 and 100 KB, HTTP/1.1, over connections that stay open; for "new
  TLS connections" every request has one of its own, through the proxy to the origin.
- Not measured: HTTP/2, compressed bodies, large rule sets, many containers, latency.
"""


def page(facts: Mapping[str, str], results: Results, missing: Mapping[str, str]) -> str:
    """Return the page. `missing` says of each contender why it was not measured, or nothing."""
    parts = [_HEAD, *(f"- {name}: {value}\n" for name, value in facts.items())]
    parts += [_summary(results), "\n## Requests a second\n\n"]
    parts.append(_table(results, missing, lambda each: each.rate, "{:.0f}"))
    parts.append("\n## CPU milliseconds for a request\n\n")
    measured = {name: why for name, why in missing.items() if not name.startswith("direct")}
    parts.append(_table(results, measured, lambda each: each.cost, "{:.2f}"))
    parts += ["\n## Where Webguard's CPU goes\n\n", _shares(results), _METHOD, _failed(results)]
    return "".join(parts)


def _summary(results: Results) -> str:
    """Compare, where there is something to compare with."""
    lines = []
    for name in _names(results):
        if name.startswith("Webguard"):
            rates = _ratios(results, name, lambda each: each.rate)
            costs = _ratios(results, name, lambda each: each.cost)
            if rates:
                lines.append(
                    f"- **{name}** answers {min(rates):.2f} to {max(rates):.2f} times as many"
                    f" requests a second as {BASELINE}, for {min(costs):.2f} to"
                    f" {max(costs):.2f} times the CPU a request.\n"
                )
    less = "mitmproxy, no addon"
    if noise := _ratios(results, less, lambda each: each.rate):
        costs = _ratios(results, less, lambda each: each.cost)
        lines.append(
            f"- For scale: **{less}**, which only leaves work out, came out at {min(noise):.2f} to"
            f" {max(noise):.2f} times the requests a second, for {min(costs):.2f} to"
            f" {max(costs):.2f} times the CPU. Fewer than 1 or costlier than 1 there is noise,"
            " and so may be a difference of that size elsewhere.\n"
        )
    return "".join(["\n## In short\n\n", *(lines or [f"- {BASELINE}: not measured.\n"])])


def _ratios(results: Results, name: str, value: Callable[[Sample], float]) -> list[float]:
    pairs = [(_values(by, name, value), _values(by, BASELINE, value)) for by in results.values()]
    return [median(own) / median(base) for own, base in pairs if own and base and median(base)]


def _values(
    by: Mapping[str, Sequence[Sample]], name: str, value: Callable[[Sample], float]
) -> list[float]:
    """Return the values of all rounds; a cost does not exist where nothing was answered."""
    return [found for each in by.get(name, ()) if not isnan(found := value(each))]


def _table(
    results: Results,
    missing: Mapping[str, str],
    value: Callable[[Sample], float],
    form: str,
) -> str:
    rows = [["", *results], ["---", *("---:" for _ in results)]]
    for name, why in missing.items():
        cells = [_cell(by, name, value, form) for by in results.values()]
        rows.append([name, *([f"not measured: {why}"] * len(cells) if why else cells)])
    return _lines(rows)


def _cell(
    by: Mapping[str, Sequence[Sample]],
    name: str,
    value: Callable[[Sample], float],
    form: str,
) -> str:
    values = _values(by, name, value)
    if not values:
        return "not measured"
    middle = median(values)
    said = f"{form.format(middle)} ({form.format(min(values))}..{form.format(max(values))})"
    base = _values(by, BASELINE, value)
    if name == BASELINE or not base or not median(base):
        return said
    return f"{said} x{middle / median(base):.2f}"


def _shares(results: Results) -> str:
    """Return CPU milliseconds for a request by process; medians."""
    rows = [["", *results], ["---", *("---:" for _ in results)]]
    for name in _names(results):
        if not name.startswith("Webguard"):
            continue
        samples = [each for by in results.values() for each in by[name]]
        for role in sorted({role for each in samples for role in each.cpu}):
            shares = [
                [each.share(role) for each in by[name] if each.requests] for by in results.values()
            ]
            cells = [f"{median(each):.2f}" if each else "not measured" for each in shares]
            rows.append([f"{name}: {role}", *cells])
    return _lines(rows)


def _names(results: Results) -> list[str]:
    return list(dict.fromkeys(name for by in results.values() for name in by))


def _failed(results: Results) -> str:
    """Say who broke connections, if anybody did."""
    lines = [
        f"- {name}, {work}: {failed} connections broke or answers were late\n"
        for work, by in results.items()
        for name, samples in by.items()
        if (failed := sum(each.failed for each in samples))
    ]
    return "".join(["\n## Failed\n\n", *(lines or ["- None: every request was answered.\n"])])


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
