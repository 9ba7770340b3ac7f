"""Signed UDP datagrams between the ranks of a run: what anything else sends is dropped before it is parsed."""

import contextlib
import hmac
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import torch.distributed

from climax_hpc.distributed import process_group
from climax_hpc.distributed.peers import Address, Peers, find_peers

LONGEST = 4096
"""Bytes of a datagram, signature included."""
_SIGNATURE = 32
_RECEIVE_BUFFER = 1 << 22  # bytes; Linux counts about 2 kB for a datagram
_LOOPBACK = "127.0.0.1"


class Datagrams:
    """A UDP socket on the interface of the run; a datagram is its HMAC-SHA256, then JSON."""

    def __init__(self, bound: socket.socket, key: bytes, *, timeout: float) -> None:
        """Args: `key`: of the run. `timeout`: longest wait of `receive` [s]."""
        self._socket, self._key = bound, key
        self._socket.settimeout(timeout)
        self.own: Address = bound.getsockname()

    def send(self, address: Address, message: Any) -> None:
        """Send plain JSON types; a datagram may be lost, also here."""
        with contextlib.suppress(OSError):
            self._socket.sendto(self.signed(message), address)

    def signed(self, message: Any) -> bytes:
        """The datagram of a message."""
        body = json.dumps(message, separators=(",", ":")).encode()
        return self._signature(body) + body

    def receive(self) -> tuple[Any, Address] | None:
        """The next message of a rank of this run and its address; None where there is none, or it is not signed."""
        try:
            data, address = self._socket.recvfrom(LONGEST)
        except OSError:  # timed out, or the host of an earlier `send` refused it
            return None
        body = data[_SIGNATURE:]
        if not hmac.compare_digest(data[:_SIGNATURE], self._signature(body)):
            return None
        return json.loads(body), address

    def wake(self) -> None:
        """End a `receive` of another thread at once."""
        with contextlib.suppress(OSError):
            self._socket.sendto(b"", self.own)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


def meet(*, timeout: float) -> tuple[Datagrams, Peers]:
    """The socket of this rank, and whom it reports to; a collective.

    The key is random and reaches the ranks over the process group, so it is never sent in a datagram.

    Args:
        timeout: longest wait of `receive` [s].
    """
    rank = torch.distributed.get_rank()
    nodes = process_group.gathered((node_name(), _ip(os.environ.get("MASTER_ADDR", _LOOPBACK))))
    first = _address_of_first(nodes)
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind((first if rank == 0 else _towards(first), 0))
    except OSError:  # the nodes know each other by translated addresses
        bound.bind(("", 0))
    if rank == 0:  # every node sends to it; the system may grant less
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    own: Address = bound.getsockname()
    met = process_group.gathered((own, secrets.token_bytes(_SIGNATURE) if rank == 0 else b""))
    addresses = [address for address, _ in met]
    peers = find_peers(rank, [node for node, _ in nodes], addresses, (first, addresses[0][1]))
    return Datagrams(bound, met[0][1], timeout=timeout), peers


def _address_of_first(nodes: list[tuple[str, str]]) -> str:
    """Address of rank 0 for all ranks: loopback on one node, else what another node knows it by.

    `nodes`: node of each rank, and the address of rank 0 as that rank sees it; its own node may see a loopback one.
    """
    names = [name for name, _ in nodes]
    return next((address for name, address in nodes if name != names[0]), _LOOPBACK)


def _towards(address: str) -> str:
    """Address of this node on the interface that leads to another address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # chooses the interface, and sends nothing
        return str(probe.getsockname()[0])


def node_name() -> str:
    """Name of this node, with the identity of its kernel: nodes of a cloud may all be called localhost."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.is_file() else ''}"


def _ip(host: str) -> str:
    """IPv4 address of a host; the host itself where it has none, and then no datagram arrives."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return host
