"""Which addresses users may make us connect to: public ones, and what the operator allows.

Everything else (loopback, private, link-local, metadata services, multicast, reserved) is refused, also if an
IPv6 address embeds such an IPv4 address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Listed here although Python considers most of them not "global" either: its tables differ between versions.
REFUSED = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's platform address, reachable from its VMs
        "::/96", "64:ff9b:1::/48", "100::/64", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7",
        "fe80::/10", "fec0::/10", "ff00::/8",
    )
]  # fmt: skip
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether the address, and each IPv4 address embedded in it, is public."""
    return all(_is_public(one) for one in (address, *wrapped(address)))


def _is_public(address: Address) -> bool:
    if NAT64.version == address.version and address in NAT64:
        return True  # its IPv4 address is checked separately
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in REFUSED if network.version == address.version)
    )


def wrapped(address: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that a packet to this IPv6 address may reach: mapped, NAT64, 6to4, Teredo."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64 or int(address) >> 32 == 0:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if int(address) >> 32 == 0xFFFF0000:  # ::ffff:0:0:0/96, IPv4-translated (SIIT)
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if (int(address) >> 32) & 0xFFFFFFFF in (0x00005EFE, 0x02005EFE):  # ISATAP
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


class Allowed:
    """Private targets that the operator allows: networks, addresses, hosts, `*.domain`."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        self._domains: tuple[str, ...] = ()
        for entry in filter(None, (entry.strip().lower().rstrip(".") for entry in entries)):
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                if entry.startswith("*."):
                    self._domains += (entry[1:],)
                else:
                    self._hosts.add(entry)

    def address(self, address: Address) -> bool:
        """Also if it is an IPv4 address embedded in IPv6."""
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any(
            one in network
            for one in filter(None, (address, mapped))
            for network in self._networks
            if network.version == one.version
        )

    def host(self, host: str) -> bool:
        return host in self._hosts or bool(self._domains and host.endswith(self._domains))
