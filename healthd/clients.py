"""Who counts as one client: an address of IPv4, or a network of IPv6, of which everybody has at least a /64."""

import functools
import ipaddress

UNKNOWN = "unknown"


@functools.lru_cache(maxsize=4096)
def client_of(host: str) -> str:
    """Return what all connections of one client have in common: `192.0.2.7`, or `2001:db8:1:2::/64`."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64] or UNKNOWN
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    if mapped is not None:
        return str(mapped)
    if address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))
