"""A subnet as its chain keeps it, block by block. Every operation is a block of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from bittensor.sp_core import ss58_encode


def address(name: str) -> str:
    """The ss58 address of a key that stands for a name."""
    return str(ss58_encode(hashlib.blake2b(name.encode(), digest_size=32).digest(), 42))


@dataclass(frozen=True)
class Neuron:
    """One registration. Identity on the chain is the hotkey with the block of its registration."""

    hotkey: str
    coldkey: str
    registered_at: int
    served: bool = True
    permit: bool = False
    stake_tao: float = 0.0


Neurons = tuple[Neuron, ...]


class Subnet:
    """A chain with one subnet.

    Attributes:
        netuid: of the subnet.
        unfinalized: how many of the newest blocks are not final yet.
        exists: whether the chain has the subnet.
    """

    def __init__(self, netuid: int = 23, *, n: int = 4, block: int = 100) -> None:
        self.netuid = netuid
        self.unfinalized = 0
        self.exists = True
        self.head = block
        neurons = tuple(self._neuron(f"miner-{uid}", registered_at=uid + 1) for uid in range(n))
        self._history: list[tuple[int, Neurons]] = [(0, neurons)]

    @property
    def finalized(self) -> int:
        return self.head - self.unfinalized

    @property
    def neurons(self) -> Neurons:
        return self.at(self.head)

    @property
    def hotkeys(self) -> list[str]:
        return [neuron.hotkey for neuron in self.neurons]

    def at(self, block: int) -> Neurons:
        """The neurons as a block has them."""
        return next(neurons for since, neurons in reversed(self._history) if since <= block)

    def advance(self, blocks: int = 1) -> None:
        """Blocks in which nothing happens to the subnet."""
        self.head += blocks

    def go_back(self, blocks: int) -> None:
        """Become a node that lags."""
        self.head -= blocks

    def register(self, name: str, *, uid: int | None = None) -> None:
        """A newcomer takes a uid over, or a new one at the end."""
        newcomer = self._neuron(name, registered_at=self.head + 1)
        if uid is None:
            self._change((*self.neurons, newcomer))
        else:
            self._replace(uid, newcomer)

    def swap_hotkey(self, uid: int, name: str) -> None:
        """An owner exchanges its own hotkey; its registration stays."""
        self._replace(uid, replace(self.neurons[uid], hotkey=address(name)))

    def compact(self, *removed: int) -> None:
        """Remove uids; those above them move down."""
        self._change(tuple(neuron for uid, neuron in enumerate(self.neurons) if uid not in removed))

    def serve(self, uid: int, served: bool = True) -> None:
        self._replace(uid, replace(self.neurons[uid], served=served))

    def stake(self, uid: int, tao: float, *, permit: bool = True) -> None:
        self._replace(uid, replace(self.neurons[uid], stake_tao=tao, permit=permit))

    def _replace(self, uid: int, neuron: Neuron) -> None:
        self._change((*self.neurons[:uid], neuron, *self.neurons[uid + 1 :]))

    def _change(self, neurons: Neurons) -> None:
        self._history.append((self.head + 1, neurons))
        self.head += 1

    @staticmethod
    def _neuron(name: str, *, registered_at: int) -> Neuron:
        return Neuron(hotkey=address(name), coldkey=address(f"{name}'s owner"), registered_at=registered_at)
