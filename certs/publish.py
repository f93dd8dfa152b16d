"""The host's own trust: show our CA's certificate, and read whom the host trusts.

The public copy is for people and for programs that are pointed at it; programs
that read the whole directory will trust it. What we trust upstream is the
host's bundle without any CA of ours: a server that presents one of our leaves
is an attack, or a loop.
"""

import warnings
from pathlib import Path

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from certs import durable, pem
from certs.certificate import OurCertificate, is_ours
from webguard.errors import ConfigError, HostError

FILE_NAME = "ESET-SSL-Filter-CA.pem"  # the name that the product's documentation promises

_RED_HAT_FOLDER = "etc/pki/ca-trust/extracted/pem"
_FOLDER = "etc/ssl/certs"
# As Go reads them: the first that exists.
_BUNDLES = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/tls/cacert.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/cert.pem",
)
_LIMIT = 16 << 20


def place(root: Path) -> Path:
    """Return where the public copy belongs on this host."""
    red_hat = root / _RED_HAT_FOLDER
    return (red_hat if red_hat.is_dir() else root / _FOLDER) / FILE_NAME


def publish(root: Path, ours: OurCertificate) -> Path:
    """Put our certificate, without the key, where the host's users look. Safe to repeat.

    Raises `HostError` if the file is there and not ours: the vendor's product
    uses the same name.
    """
    path = place(root)
    if path.is_symlink() or path.exists():
        if not _holds_ours_alone(path):
            raise HostError(
                f"publish the CA certificate as {path}",
                "it exists and is not Webguard's",
                "remove it if the product it came from is gone",
            )
        if path.read_bytes() == ours.pem and path.stat().st_mode & 0o7777 == 0o644:
            return path
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"make {path.parent}", error.strerror or str(error), "make its parent writable"
        ) from error
    durable.write(path, ours.pem, 0o644)
    return path


def withdraw(root: Path) -> bool:
    """Remove the public copy if it is ours, of any generation. Returns whether it was there."""
    path = place(root)
    if not _holds_ours_alone(path):
        return False
    path.unlink()
    durable.sync_folder(path.parent)
    return True


def upstream_roots(root: Path, extra_ca: tuple[Path, ...], ours: OurCertificate) -> bytes:
    """Return the certificates to trust upstream, as PEM: the host's and `extra_ca`, never ours.

    Raises `ConfigError` for a file of `extra_ca` that is of no use, `HostError`
    if the host has no bundle.
    """
    ders = _foreign(_host_bundle(root), ours)
    for path in extra_ca:
        ders += _extra(path, ours)
    return b"".join(pem.block(der) for der in dict.fromkeys(ders))


def _host_bundle(root: Path) -> bytes:
    for name in _BUNDLES:
        path = root / name
        try:
            data = _read(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HostError(
                f"read the host's CA bundle {path}",
                str(error.strerror or error),
                "make it readable",
            ) from error
        if pem.fingerprints(data):
            return data
    raise HostError(
        "read the host's CA bundle",
        f"none of {', '.join(f'/{name}' for name in _BUNDLES)} holds a certificate",
        "apt-get install ca-certificates, or the like on this distribution",
    )


def _extra(path: Path, ours: OurCertificate) -> list[bytes]:
    try:
        data = _read(path)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror or error}") from error
    ders = [der for _, _, der in pem.blocks(data)]
    if not ders:
        raise ConfigError(str(path), "is empty" if not data.strip() else "holds no PEM certificate")
    for der in ders:
        try:
            x509.load_der_x509_certificate(der)
        except ValueError as error:
            raise ConfigError(str(path), f"holds a certificate that is broken: {error}") from error
    kept = _foreign(data, ours)
    if not kept:
        raise ConfigError(str(path), "holds nothing but Webguard's own CA, never trusted upstream")
    return kept


def _foreign(data: bytes, ours: OurCertificate) -> list[bytes]:
    return [der for _, _, der in pem.blocks(data) if der and not _any_of_ours(der, ours)]


def _any_of_ours(der: bytes, ours: OurCertificate) -> bool:
    if pem.sha256(der) == ours.fingerprint:
        return True
    try:
        with warnings.catch_warnings():
            # It warns of old roots that it will refuse one day; nobody here can mend them.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return is_ours(x509.load_der_x509_certificate(der))
    except ValueError:  # OpenSSL is more patient with old roots; ours are never like that
        return False


def _holds_ours_alone(path: Path) -> bool:
    """Return whether a file holds certificates of ours and no others."""
    try:
        data = b"" if path.is_symlink() else _read(path)
        ders = [der for _, _, der in pem.blocks(data)]
        return bool(ders) and all(is_ours(x509.load_der_x509_certificate(der)) for der in ders)
    except (OSError, ValueError):
        return False


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a FIFO would wait for ever
        raise OSError(0, "it is not a file")
    with path.open("rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise OSError(0, f"it is larger than {_LIMIT >> 20} MiB")
    return data
