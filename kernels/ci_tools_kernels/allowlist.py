"""Which hosts sandboxed code may reach, where an operator allows some and no others.

An entry is a name (`pypi.org`), a name with its subdomains in place of the first label
(`*.example.org`), an address (`10.1.2.3`, `[2001:db8::1]`) or `*` for every public host. Without a
port (`pypi.org:8443`) it stands for the ports 80 and 443.

A name leads to public addresses only: one that resolves to this machine or to a private network is
refused, whoever answers for it. An address that an entry names is the operator's own choice.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

PORTS = (80, 443)
"""What an entry without a port stands for."""

ANY = "*"
"""The entry for every public host."""

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_TRANSLATED = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/32", "2002::/16"))
"""Addresses that stand for others: translators and tunnels lead them anywhere."""

_REFUSED = (ipaddress.IPv4Address("168.63.129.16"),)
"""Public by its number, and yet a service of the cloud's that machines in it trust (Azure)."""


class HostRefusedError(Exception):
    """The host is not to be reached; the message says why."""


@dataclass(frozen=True)
class _Entry:
    host: str
    ports: tuple[int, ...]

    def matches(self, host: str, port: int) -> bool:
        if port not in self.ports:
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return self.host in (ANY, host)


class Allowlist:
    """The hosts of one list."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Read the entries.

        Raises:
            ValueError: One of them is none.
        """
        self._entries = tuple(_to_entry(text) for text in entries)

    def check(self, host: str, port: int) -> None:
        """See that a name or an address is allowed.

        Raises:
            HostRefusedError: It is not.
        """
        name = _normalise(host)
        if not any(entry.matches(name, port) for entry in self._entries):
            raise HostRefusedError(f"{host}:{port} is not among the hosts that are allowed here.")

    def resolve(
        self,
        host: str,
        port: int,
        *,
        look_up: "Callable[[str, int], Sequence[str]] | None" = None,
    ) -> str:
        """Return the address to connect to, checked: a second look-up could tell another.

        Raises:
            HostRefusedError: The host is not allowed, or its name leads where it must not.
            OSError: There is no such host.
        """
        self.check(host, port)
        name = _normalise(host)
        own = any(entry.host == name and entry.matches(name, port) for entry in self._entries)
        literal = _to_address(name)
        if literal is not None and own:
            return str(literal)
        found = [str(literal)] if literal else (look_up or list_addresses)(name, port)
        for text in found:
            if not is_public(ipaddress.ip_address(text)):
                raise HostRefusedError(f"{host} leads to {text}, which is no public address.")
        if not found:
            raise HostRefusedError(f"{host} has no address.")
        return found[0]


def is_public(address: _Address) -> bool:
    """Tell whether an address is one of the internet's, and leads to no other one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in _TRANSLATED):
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and address not in _REFUSED
    )


def list_addresses(name: str, port: int) -> list[str]:
    """Ask the machine's resolver for the addresses of a name."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _to_entry(text: str) -> _Entry:
    host, port = text.strip(), ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    name = _normalise(host)
    labels = name.removeprefix("*.")
    if not labels or (host != ANY and "*" in labels) or any(mark in name for mark in "/@ "):
        raise ValueError(f"{text!r} is no host: write names, as pypi.org or *.example.org.")
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} has no port that there is.")
    return _Entry(name, (int(port),) if port else PORTS)


def _normalise(host: str) -> str:
    name = host.strip().strip("[]").rstrip(".").lower()
    address = _to_address(name)
    if address is not None:
        return str(address)
    if name.isascii():
        return name
    return name.encode("idna").decode()


def _to_address(name: str) -> _Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
