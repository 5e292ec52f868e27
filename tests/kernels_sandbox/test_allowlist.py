"""Which hosts a list allows, and where their names may lead."""

from collections.abc import Sequence

import pytest

from ci_tools_kernels.allowlist import Allowlist, HostRefusedError


def lead_to(*addresses: str) -> "LookUp":
    return LookUp(addresses)


class LookUp:
    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    def __call__(self, name: str, port: int) -> Sequence[str]:
        return self._addresses


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("pypi.org", "pypi.org", 443),
        ("pypi.org", "PyPI.org.", 80),
        ("pypi.org:8443", "pypi.org", 8443),
        ("*.example.org", "a.b.example.org", 443),
        ("*", "anything.example", 443),
        ("bücher.example", "xn--bcher-kva.example", 443),
        ("10.1.2.3", "10.1.2.3", 80),
        ("[2001:db8::1]:81", "[2001:DB8:0::1]", 81),
    ],
)
def test_entry_allows_its_host(entry: str, host: str, port: int) -> None:
    Allowlist([entry]).check(host, port)


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("pypi.org", "pypi.org", 22),
        ("pypi.org:8443", "pypi.org", 443),
        ("pypi.org", "evil-pypi.org", 443),
        ("pypi.org", "pypi.org.evil.example", 443),
        ("pypi.org", "files.pypi.org", 443),
        ("*.example.org", "example.org", 443),
        ("*.example.org", "evilexample.org", 443),
        ("10.1.2.3", "10.1.2.4", 80),
        ("pypi.org", "", 443),
    ],
)
def test_entry_allows_no_other_host(entry: str, host: str, port: int) -> None:
    with pytest.raises(HostRefusedError):
        Allowlist([entry]).check(host, port)


@pytest.mark.parametrize("entry", ["", "*.", "*.*.org", "a*.org", "http://pypi.org/", "a:0", "a b"])
def test_what_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="host|port"):
        Allowlist([entry])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.7",
        "172.20.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001:0:53aa:64c:0:0:80ff:fffe",
    ],
)
def test_allowed_name_leads_to_no_private_address(address: str) -> None:
    with pytest.raises(HostRefusedError):
        Allowlist(["pypi.org"]).resolve("pypi.org", 443, look_up=lead_to("151.101.0.223", address))


def test_every_public_host_is_no_private_address() -> None:
    with pytest.raises(HostRefusedError):
        Allowlist(["*"]).resolve("10.0.0.1", 443)


def test_allowed_name_leads_to_its_public_address() -> None:
    found = Allowlist(["pypi.org"]).resolve("pypi.org", 443, look_up=lead_to("151.101.0.223"))

    assert found == "151.101.0.223"


def test_listed_address_is_the_operators_choice() -> None:
    assert Allowlist(["10.1.2.3:8080"]).resolve("10.1.2.3", 8080) == "10.1.2.3"
