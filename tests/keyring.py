"""Real hotkeys and signatures for tests, of bittensor's own making."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

SECOND = 1_000_000_000


@dataclass
class Keyring:
    """Alice, Bob, Carol: keypairs of the development seeds. The service is `gate`."""

    keys: dict[str, Any] = field(default_factory=dict)

    def key(self, name: str) -> Any:
        from bittensor.wallets import Keypair

        return self.keys.setdefault(name, Keypair.create_from_uri(f"//{name}"))

    def address(self, name: str) -> str:
        address: str = self.key(name).ss58_address
        return address

    def sign(
        self,
        name: str,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        receiver: str | None = "gate",
        age_s: float = 0.0,
    ) -> dict[str, str]:
        """The headers of a request signed by `name`, `age_s` ago."""
        from bittensor import http_auth

        headers: dict[str, str] = http_auth.sign(
            self.key(name),
            method=method,
            path=target,
            body=body,
            receiver_ss58=receiver and self.address(receiver),
            nonce_ns=time.time_ns() - int(age_s * SECOND),
        )
        return {**headers, "Content-Type": "application/json"}
