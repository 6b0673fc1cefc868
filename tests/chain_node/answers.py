"""What the runtime answers, encoded as the runtime encodes it: by bittensor's own codec, from real metadata."""

from __future__ import annotations

import ipaddress
from typing import Any

from bittensor._transport.codec import RuntimeCodec, strip_option_opaque_metadata

from .subnet import Neuron, Neurons, Subnet, address

RAO = 10**9
_ZEROES = [
    "last_step",
    "blocks_since_last_step",
    "subnet_emission",
    "alpha_out",
    "alpha_out_emission",
    "alpha_in_emission",
    "tao_in_emission",
    "pending_alpha_emission",
    "pending_root_emission",
    "subnet_volume",
    "rho",
    "kappa",
    "min_allowed_weights",
    "max_weights_limit",
    "weights_version",
    "weights_rate_limit",
    "activity_cutoff",
    "max_validators",
    "burn",
    "difficulty",
    "immunity_period",
    "min_difficulty",
    "max_difficulty",
    "min_burn",
    "max_burn",
    "adjustment_alpha",
    "adjustment_interval",
    "target_regs_per_interval",
    "max_regs_per_block",
    "serving_rate_limit",
    "commit_reveal_period",
    "alpha_high",
    "alpha_low",
    "bonds_moving_avg",
    "network_registered_at",
]
_FLAGS = [
    "registration_allowed",
    "pow_registration_allowed",
    "commit_reveal_weights_enabled",
    "liquid_alpha_enabled",
]
_ZERO_COLUMNS = [
    "pruning_score",
    "last_update",
    "emission",
    "dividends",
    "incentives",
    "consensus",
    "trust",
    "rank",
    "alpha_stake",
    "tao_stake",
    "collateral_locked",
    "collateral_min",
    "collateral_earned",
]


class RuntimeAnswers:
    """The runtime of the metadata."""

    def __init__(self, golden: dict[str, Any]) -> None:
        self.metadata_hex: str = golden["metadata"]["v15_hex"]
        self.spec_version = int(golden["network"]["spec_version"])
        metadata = strip_option_opaque_metadata(bytes.fromhex(self.metadata_hex.removeprefix("0x")))
        assert metadata is not None
        self._codec = RuntimeCodec(metadata, spec_version=self.spec_version, transaction_version=1)
        definition = self._codec.runtime_api_map["SubnetInfoRuntimeApi"]["get_metagraph"]
        self._metagraph_type = definition["output"]
        self._netuid_type = definition["inputs"][0][1]

    def metagraph(self, subnet: Subnet, params_hex: str, block: int) -> str:
        """The answer of `SubnetInfoRuntimeApi_get_metagraph`."""
        netuid = int(self._codec.decode(self._netuid_type, bytes.fromhex(params_hex.removeprefix("0x"))))
        if netuid != subnet.netuid or not subnet.exists:
            return "0x00"
        record = _metagraph(subnet.at(block), netuid, block)
        return "0x" + self._codec.encode(self._metagraph_type, record).hex()


def _metagraph(neurons: Neurons, netuid: int, block: int) -> dict[str, Any]:
    return {
        **dict.fromkeys(_ZEROES, 0),
        **dict.fromkeys(_FLAGS, False),
        **{name: [0] * len(neurons) for name in _ZERO_COLUMNS},
        "netuid": netuid,
        "name": list(b"test"),
        "symbol": list(b"t"),
        "identity": None,
        "owner_hotkey": address("owner"),
        "owner_coldkey": address("owner"),
        "block": block,
        "tempo": 360,
        "alpha_in": RAO,
        "tao_in": RAO,
        "moving_price": {"bits": 0},
        "num_uids": len(neurons),
        "max_uids": max(256, len(neurons)),
        "hotkeys": [neuron.hotkey for neuron in neurons],
        "coldkeys": [neuron.coldkey for neuron in neurons],
        "identities": [None] * len(neurons),
        "axons": [_axon(neuron, uid) for uid, neuron in enumerate(neurons)],
        "active": [True] * len(neurons),
        "validator_permit": [neuron.permit for neuron in neurons],
        "block_at_registration": [neuron.registered_at for neuron in neurons],
        "total_stake": [int(neuron.stake_tao * RAO) for neuron in neurons],
        "tao_dividends_per_hotkey": [],
        "alpha_dividends_per_hotkey": [],
    }


def _axon(neuron: Neuron, uid: int) -> dict[str, int]:
    ip = int(ipaddress.IPv4Address("10.0.0.1")) + uid if neuron.served else 0
    return {
        "block": neuron.registered_at,
        "version": 1,
        "ip": ip,
        "port": 8091 if neuron.served else 0,
        "ip_type": 4 if neuron.served else 0,
        "protocol": 4,
        "placeholder1": 0,
        "placeholder2": 0,
    }
