"""Certificates for tests: an authority of one's own that issues what a test asks for, as PEM files in its folder."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key. `serial` tells it from every other one."""

    certificate: Path
    key: Path
    serial: int

    def serving(self, *, clients_of: Authority | None = None) -> ssl.SSLContext:
        """A server's context that shows it; with `clients_of` it demands a certificate of that authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if clients_of is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients_of.file)
        return context

    def becomes(self, other: Issued) -> None:
        """Put another pair in this one's place, each file in one step: whoever looks between the two finds no pair."""
        for old, new in ((self.certificate, other.certificate), (self.key, other.key)):
            put(old, new.read_bytes())


def put(path: Path, content: bytes) -> None:
    """Give a file another content in one step: nobody reads half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


class Authority:
    """Issues certificates. `file` is its own, to be trusted."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._numbers = itertools.count(1)
        builder = _builder(self._name, self._name, self._key.public_key(), x509.random_serial_number())
        own = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issues(self, *names: str, algorithm: str = "ec", client: bool = False, passphrase: bytes | None = None) -> Issued:
        """A certificate for these host names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1()) if algorithm == "ec" else rsa.generate_private_key(65537, 2048)
        serial = x509.random_serial_number()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        certificate = (
            _builder(subject, self._name, key.public_key(), serial)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        stem = f"{names[0].replace(':', '_')}-{next(self._numbers)}"
        paths = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
        return Issued(*paths, serial)

    def client(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A client's context that trusts this authority, and speaks only `version` if one is given."""
        context = ssl.create_default_context(cafile=self.file)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


def serial_of(sock: ssl.SSLSocket) -> int:
    """The serial number of the certificate that the other side has shown."""
    shown = sock.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, serial: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(issuer, subject, key, serial, now - _DAY, now + _DAY)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
