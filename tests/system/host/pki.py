"""Certificates for the origin: good ones, and each way in which one can be bad."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """The certificate alone, for a trust store."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def pem_with_key(self) -> str:
        """Key and certificate, for a server."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return key.decode() + self.pem


def authority(name: str) -> Identity:
    """A certificate authority of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = _usage(signs_certificates=True)
    builder = _builder(name, name, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    return Identity(certificate=certificate, key=key)


def server(
    *names: str, issuer: Identity | None, expired: bool = False, key: ec.EllipticCurve | None = None
) -> Identity:
    """A server's certificate for DNS names and addresses, self-signed without `issuer`."""
    own = ec.generate_private_key(key or ec.SECP256R1())
    signer = issuer.key if issuer else own
    issued_by = (
        issuer.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        if issuer
        else names[0]
    )
    builder = (
        _builder(names[0], str(issued_by), own, expired=expired)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
    )
    return Identity(certificate=builder.sign(signer, hashes.SHA256()), key=own)


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    until = now - _DAY if expired else now + 30 * _DAY
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
