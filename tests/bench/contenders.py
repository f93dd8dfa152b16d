"""Who is measured, each set up as in production and proved to be in the path.

Webguard runs as `webguard run` does on any host, with its own redirect and
identities. Stock mitmproxy is the same version from the same venv, as a
transparent proxy behind a plain redirect of one user's connections.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.measure import Processes, below
from tests.system.host.origin import EICAR, GOOD_V4, ORIGIN_V4
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import running
from webguard.scan.engine import compile_rules, shipped_rules

PLAIN, TLS = 8081, 8443  # the origin's ports; others than the Python origin's
SIZES = (1, 10, 100)  # KB
_BIN = Path("/opt/webguard/venv/bin")
_ADDON = Path(__file__).parent / "peers" / "mitmproxy_scan.py"
_START = 60.0
_UNTRUSTED = 60  # curl's exit code for a certificate of an issuer it does not know


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One of those who are measured."""

    name: str
    box: Cgroup | None = None  # where the load comes from; None: not measured
    user: int = 0  # whose connections are taken, where that is by user
    processes: Processes = field(default=dict)
    missing: str = ""  # why it is not measured


def url(scheme: str, kilobytes: int) -> str:
    """Return where the origin serves so many KB."""
    port = TLS if scheme == "https" else PLAIN
    return f"{scheme}://{GOOD_V4}:{port}/{kilobytes}k"


@contextmanager
def serving(host: TestHost) -> Iterator[None]:
    """Run nginx in the origin's network namespace: the Python origin is slower than a proxy."""
    root = host.folder / "nginx"
    (root / "www").mkdir(parents=True)
    for size in SIZES:
        (root / "www" / f"{size}k").write_bytes(os.urandom(size * 1024))
    (root / "www" / "eicar").write_bytes(EICAR)
    (root / "nginx.conf").write_text(_NGINX.format(root=root, folder=host.folder))
    enter = Path(__file__).parents[1] / "system" / "host" / "enter.py"
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", enter, str(os.getpid())),
            *(host.cgroup("host").path, str(host.origin.pid), "-", "/"),
            *("/usr/sbin/nginx", "-p", root, "-c", root / "nginx.conf"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        _answers(host, f"http://{ORIGIN_V4}:{PLAIN}/1k", process)
        yield
    finally:
        process.terminate()
        process.wait(10)


_NGINX = """
daemon off; master_process off; user root;
pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; open_file_cache max=10;
    default_type application/octet-stream;
    keepalive_requests 100000000; keepalive_timeout 600;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
    server {{
        listen 8081 backlog=4096; listen 8443 ssl backlog=4096;
        ssl_certificate {folder}/good.pem; ssl_certificate_key {folder}/good.pem;
        root {root}/www;
    }}
}}
"""


def direct(host: TestHost) -> Contender:
    """Nobody in between: how fast client and server are by themselves."""
    return Contender(name="direct (no proxy)", box=host.cgroup("direct"))


@contextmanager
def webguard(host: TestHost, workers: int) -> Iterator[Contender]:
    """Webguard as an operator runs it, with so many workers."""
    box = host.cgroup("box")
    settings = {"web": {"workers": workers, "ports": [PLAIN, TLS]}}
    with running(host, _BIN / "webguard", [box.below_root], settings) as daemon:
        name = f"Webguard, {workers} worker{'s' if workers > 1 else ''}"
        made = Contender(name=name, box=box, processes=lambda: below(daemon.pid))
        _prove(host, made, scans=True)
        yield made


@contextmanager
def mitmproxy(host: TestHost, *, port: int, scans: bool) -> Iterator[Contender]:
    """Stock mitmdump behind a redirect of its own; missing if it does not run."""
    name = "mitmproxy, scanning" if scans else "mitmproxy, no addon"
    if not host.path(_BIN / "mitmdump").exists():
        yield Contender(name=name, missing="mitmdump is not installed")
        return
    rules = host.folder / "rules.yarac"
    rules.write_bytes(compile_rules(shipped_rules()))
    log = (host.folder / f"mitmdump-{port}.log").open("wb")
    process = host.spawn(
        [
            *(_BIN / "mitmdump", "-q", "--mode", "transparent", "--listen-port", str(port)),
            *("--set", f"confdir={host.folder}/mitmproxy-{port}"),
            *("--set", f"ssl_verify_upstream_trusted_ca={host.origin.ca_file}"),
            *(("-s", _ADDON) if scans else ()),
        ],
        environment={"BENCH_RULES": str(rules)},
        stdout=log.fileno(),
        stderr=log.fileno(),
    )
    log.close()
    try:
        # A user's number is as good as the port's for telling the two apart.
        box = host.cgroup(f"mitmproxy-{port}")
        made = Contender(name=name, box=box, user=port, processes=lambda: below(process.pid))
        host.run(["nft", "-f", "-"], stdin=_redirect(port).encode())
        try:
            _answers(host, url("http", 1), process, made)
        except RuntimeError as error:
            yield Contender(name=name, missing=str(error))
            return
        _prove(host, made, scans=scans)
        yield made
    finally:
        process.kill()
        process.wait()


def _redirect(port: int) -> str:
    return (
        f"table inet bench_{port} {{\nchain output {{\n"
        "type nat hook output priority -105;\n"
        f"meta skuid {port} tcp dport {{ {PLAIN}, {TLS} }} redirect to :{port}\n}}\n}}\n"
    )


def _curl(host: TestHost, contender: Contender | None, address: str, *options: str) -> str:
    """Return curl's exit code and the status it got, as "0 200"."""
    user = str(contender.user if contender else 0)
    done = host.run(
        [
            *("setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--"),
            *("curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", *options),
            address,
        ],
        cgroup=contender.box if contender else None,
        check=False,
    )
    return f"{done.code} {done.out}"


def _answers(
    host: TestHost,
    address: str,
    process: "subprocess.Popen[bytes]",
    contender: Contender | None = None,
) -> None:
    """Wait until it does."""
    deadline = time.monotonic() + _START
    while _curl(host, contender, address) != "0 200":
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{address} is not answered")
        time.sleep(0.1)


def _prove(host: TestHost, contender: Contender, *, scans: bool) -> None:
    """Raise unless it is in the path of HTTPS, and scans or not, as it is said to."""
    trust = ("--cacert", str(host.origin.ca_file))
    code = _curl(host, contender, url("https", 1), *trust).split()[0]
    if code != str(_UNTRUSTED):
        raise RuntimeError(f"{contender.name} is not in the path (curl: {code})")
    eicar = _curl(host, contender, f"https://{GOOD_V4}:{TLS}/eicar", "-k")
    if eicar != ("0 403" if scans else "0 200"):
        raise RuntimeError(f"{contender.name} answered EICAR with {eicar}")
