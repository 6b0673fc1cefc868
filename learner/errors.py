"""What can go wrong in the learner.

    LearnerError
    ├── RosterError            the roster file is missing or malformed
    ├── ChainError             the network cannot be read
    │   ├── ChainUnavailableError  no node of it answers as it should
    │   ├── UnknownNetworkError    there is no network of this name
    │   ├── SubnetNotFoundError    the network has no subnet of this number
    │   └── BadMetagraphError      what the node tells of the subnet cannot be
    ├── StaleViewError         a metagraph view older than the one in use
    ├── UnknownUidError        a reward names a uid that the network does not have
    ├── RepeatedUidError       a reward names a uid twice
    ├── DecisionPendingError   a decision is still on its way from a live replica: try again
    ├── ConfigMismatchError    a learner with another configuration is running
    └── EncoderMismatchError   embeddings of another encoder were sent

All of them pickle, since they cross from the learner's process to the replicas.
"""

from __future__ import annotations


class LearnerError(Exception):
    """Base of everything that the learner raises on purpose."""


class RosterError(LearnerError):
    """The roster file is missing or malformed; the message names the file, the entry and the field."""


class ChainError(LearnerError):
    """The network cannot be read."""


class ChainUnavailableError(ChainError):
    """No node of the network answers as it should; the message names the endpoint and the cause."""


class UnknownNetworkError(ChainError):
    """There is no network of this name, and it is no endpoint either."""


class SubnetNotFoundError(ChainError):
    """The network has no subnet of this number; the message names both."""


class BadMetagraphError(ChainError):
    """What the node tells of the subnet cannot be: a hotkey that holds two uids, say."""


class StaleViewError(LearnerError):
    """A metagraph view is older than the one in use."""


class UnknownUidError(LearnerError):
    """A reward names a uid that the network does not have."""


class RepeatedUidError(LearnerError):
    """A reward names a uid twice."""


class DecisionPendingError(LearnerError):
    """A decision is still on its way from a live replica; the same request may be sent again."""


class ConfigMismatchError(LearnerError):
    """A learner with another configuration is running under this name."""


class EncoderMismatchError(LearnerError):
    """Embeddings of another encoder than the learner's were sent."""
