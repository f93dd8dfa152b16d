"""Our CA: made once for this host, then only loaded. Runs as the signer's user.

There is no repair here. A CA that is incomplete, does not fit together or is
readable by others is an error for the operator: making a new one silently would
turn every container's trust into a trust in nothing, and hide that somebody was
at the key.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs import durable
from certs.certificate import NAME_PREFIX, OurCertificate, our_certificate
from certs.names import subject_names
from webguard.errors import HostError

KEY_FILE, CERTIFICATE_FILE = "ca-key.pem", "ca.pem"

_VALIDITY = timedelta(days=913)  # two and a half years: two rotations before clients complain
# A client whose clock is a little behind ours must not refuse what was made just now.
_BACKDATED = timedelta(hours=1)
_FILE_LIMIT = 64 << 10
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_SPKI_LIMIT = 4096  # bytes; an RSA key of 8192 bits has 1062
_RENEW = (
    "move the CA's folder away, start again for a new CA, and install that one in every container"
)


class Purpose(StrEnum):
    """What a certificate is for; it decides how long it lives."""

    LEAF = "leaf"
    BLOCK_PAGE = "block-page"

    @property
    def lifetime(self) -> timedelta:
        """From now on."""
        return timedelta(days=7) if self is Purpose.LEAF else timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA's key and certificate, for signing. Never leaves the signer's process."""

    _key: ec.EllipticCurvePrivateKey
    _certificate: x509.Certificate
    public: OurCertificate

    @classmethod
    def ensure(cls, folder: Path) -> Self:
        """Load the CA in `folder`, or make it if there is nothing of one.

        The folder must be ours and closed to others, and is made if its parent
        exists. Raises `HostError` for a CA that is incomplete, expired or
        readable by others; nothing is ever made in its place.
        """
        with _locked(folder):
            # Any one of the two is a CA, if a broken one: loading says what is wrong with it.
            if not any(os.path.lexists(folder / name) for name in (KEY_FILE, CERTIFICATE_FILE)):
                _make(folder)
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> Self:
        try:
            key = load_pem_private_key(_private_file(folder / KEY_FILE), None)
            data = _private_file(folder / CERTIFICATE_FILE)
            certificate, public = x509.load_pem_x509_certificate(data), our_certificate(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _broken(folder, str(error)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _broken(folder, "the key is not an elliptic curve key")
        if key.public_key() != certificate.public_key():
            raise _broken(folder, "key and certificate do not belong together")
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            raise _broken(folder, f"it expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
        return cls(key, certificate, public)

    def mint(
        self,
        names: tuple[str, ...],
        public_key: bytes,
        now: datetime,
        purpose: Purpose = Purpose.LEAF,
    ) -> bytes:
        """Certify a DER SubjectPublicKeyInfo for host names or addresses.

        Returns PEM, the leaf and then the CA. Raises `ValueError` for a name or
        a key that must not be certified.
        """
        alternative, key = subject_names(names), _public_key(public_key)
        common_name = str(alternative[0].value)
        fits = len(common_name) <= 64  # X.520's upper bound, which OpenSSL enforces
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if fits else []
        first = max(now - _BACKDATED, self._certificate.not_valid_before_utc)
        last = min(now + purpose.lifetime, self._certificate.not_valid_after_utc)
        if first >= last:
            raise HostError("sign a certificate", "our CA has expired", _RENEW)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(first)
            .not_valid_after(last)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            # RFC 5280 4.2.1.6: critical if the subject is empty.
            .add_extension(x509.SubjectAlternativeName(alternative), critical=not fits)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority_key_identifier(self._certificate), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return leaf.public_bytes(Encoding.PEM) + self.public.pem


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder, ours alone, so that two signers never make two CAs."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise HostError(
            f"open the CA's folder {folder}",
            error.strerror or str(error),
            "make it a directory of the signer's user with mode 0700",
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise HostError(
                f"use the CA's folder {folder}",
                f"others can reach it (owner {status.st_uid}, mode {status.st_mode & 0o7777:04o})",
                f"chown {os.geteuid()} {folder} && chmod 0700 {folder}, then ask who read the key",
            )
        yield
    finally:
        os.close(fd)


def _make(folder: Path) -> None:
    """Make key and certificate; on any failure there is neither."""
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = _self_signed(key, datetime.now(UTC)).public_bytes(Encoding.PEM)
    # Both are on the disk before either has its name: a full disk leaves nothing behind.
    staged_key = durable.stage(folder / KEY_FILE, secret, 0o600)
    try:
        staged_certificate = durable.stage(folder / CERTIFICATE_FILE, public, 0o600)
    except HostError:
        staged_key.unlink()
        raise
    durable.commit(staged_key, folder / KEY_FILE)
    durable.commit(staged_certificate, folder / CERTIFICATE_FILE)


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # A name of its own for each host and generation: with the same name and another
    # key, clients pick the wrong issuer.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Webguard"),
            x509.NameAttribute(NameOID.COMMON_NAME, NAME_PREFIX + secrets.token_hex(4)),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALIDITY)
        # All three are needed: Python 3.13 verifies strictly by default, others do not.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _public_key(data: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    if len(data) > _SPKI_LIMIT:
        raise ValueError("the public key is too large")
    try:
        key = load_der_public_key(data)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return key
    raise ValueError("only P-256, P-384 and RSA keys of at least 2048 bits are certified")


def _private_file(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            private = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o077
            if private and status.st_uid == os.geteuid():
                return file.read(_FILE_LIMIT)
    except OSError as error:
        raise _broken(path.parent, f"{path.name}: {error.strerror}") from error
    raise _broken(path.parent, f"{path.name} is not a file that only its owner can read")


def _broken(folder: Path, problem: str) -> HostError:
    return HostError(
        f"load the CA from {folder}",
        problem,
        f"restore the folder from a backup; or {_RENEW}",
    )
