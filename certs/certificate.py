"""Our CA certificate as everybody may see it: no key, no files, no clock."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL.crypto import X509

from certs import pem

# Every generation's common name begins so, and nothing else does: what bears it is ours.
NAME_PREFIX = "Webguard SSL Filter CA "


@dataclass(frozen=True, slots=True, kw_only=True)
class OurCertificate:
    """One generation of our CA certificate."""

    common_name: str
    pem: bytes
    fingerprint: str  # SHA-256 of the DER, hexadecimal
    subject_hash: str  # the name OpenSSL looks it up by, as `openssl x509 -subject_hash`

    @property
    def file_name(self) -> str:
        """A file name that no other generation has, without its ending."""
        return "webguard-ssl-filter-ca-" + self.common_name.removeprefix(NAME_PREFIX)

    @property
    def marker(self) -> str:
        """The line in front of our certificate wherever we append it to a bundle."""
        return f"# {self.common_name}, added by webguard\n"

    @property
    def block(self) -> str:
        """What we append to a bundle."""
        return self.marker + self.pem.decode("ascii")


def our_certificate(data: bytes) -> OurCertificate:
    """Read one PEM certificate of ours; `ValueError` if it is not exactly that."""
    ders = [der for _, _, der in pem.blocks(data)]
    if len(ders) != 1:
        raise ValueError(f"{len(ders)} certificates where one was expected")
    certificate = x509.load_der_x509_certificate(ders[0])
    if not is_ours(certificate):
        raise ValueError("the certificate is not one of Webguard's")
    return OurCertificate(
        common_name=_common_name(certificate),
        pem=certificate.public_bytes(Encoding.PEM),
        fingerprint=pem.sha256(ders[0]),
        subject_hash=f"{int(X509.from_cryptography(certificate).subject_name_hash()):08x}",
    )


def is_ours(certificate: x509.Certificate) -> bool:
    """Return whether any generation of our CA has this certificate's subject."""
    prefix, generation = _common_name(certificate)[:-8], _common_name(certificate)[-8:]
    # Strict, because the generation becomes a part of file names.
    return (
        prefix == NAME_PREFIX
        and len(generation) == 8
        and set(generation) <= set("0123456789abcdef")
    )


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    value = names[0].value if len(names) == 1 else ""
    return value if isinstance(value, str) else ""
