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
    ├── OverloadedError        more is logged than can be learned at the moment: try again
    ├── LogError               the event log cannot be used
    │   ├── NoLogError             there is no log to read
    │   ├── OldSchemaError         the log waits for a learner of this version to bring it up to date
    │   ├── LogUnavailableError    the database does not answer or cannot write: nothing was acknowledged, try again
    │   ├── LogSchemaError         the database was written by a newer Tidegate
    │   ├── LogCorruptError        the database is damaged, or is no database
    │   ├── WrongLogError          it is the log of another application or encoder, or not the log used so far
    │   ├── LeaseHeldError         another learner writes it
    │   └── FencedError            another learner has taken it over
    ├── CheckpointError        a saved state cannot be used
    │   ├── CheckpointCorruptError    it is truncated or was altered
    │   └── CheckpointMismatchError   it is of another rule, encoder, dimension or log
    ├── RuleMismatchError      the rule that serves is not among the configured ones
    ├── UnknownRuleError       there is no shadow rule of this label
    ├── UnknownVersionError    there is no such version or checkpoint to go back to
    ├── UnknownEventError      an event is not in quarantine
    ├── NeedsDurableLogError   what was asked for needs a log that outlives the learner
    ├── ConfigMismatchError    a learner with another log or network is running
    ├── RollInProgressError    replicas that want different learners are there: hand over when the roll is done
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
    """A learner with another log or network is running under this name."""


class RollInProgressError(LearnerError):
    """Replicas of two deployments are there: either kind could create the next learner, so none is handed over."""


class EncoderMismatchError(LearnerError):
    """Embeddings of another encoder than the learner's were sent."""


class OverloadedError(LearnerError):
    """More events wait to be learned than may; the same request may be sent again."""


class LogError(LearnerError):
    """The event log cannot be used; the message names it, without its password."""


class NoLogError(LogError):
    """There is no log to read yet."""


class OldSchemaError(LogError):
    """The database has an older schema, which the learner brings up to date when it starts; until then nobody reads."""


class LogUnavailableError(LogError):
    """The database does not answer, or cannot write. What was to be logged is not acknowledged."""


class LogSchemaError(LogError):
    """The database has a schema that this version of Tidegate does not know."""


class LogCorruptError(LogError):
    """The database is damaged, or is none."""


class WrongLogError(LogError):
    """The log of another application or encoder, or not the one that the checkpoints go with."""


class LeaseHeldError(LogError):
    """Another learner holds the log and renews its claim."""


class FencedError(LogError):
    """Another learner has taken the log over: this one may write no more."""


class CheckpointError(LearnerError):
    """A saved state cannot be used; the message names it."""


class CheckpointCorruptError(CheckpointError):
    """A checkpoint is truncated, or was altered after it was written."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint of another rule, encoder, dimension or log; the message says what to do."""


class RuleMismatchError(LearnerError):
    """The rule that serves in the log is not among the configured ones; the message says what to do."""


class UnknownRuleError(LearnerError):
    """There is no shadow rule of this label; the message names those that there are."""


class UnknownVersionError(LearnerError):
    """There is no such version or checkpoint, or what it takes to rebuild it has been pruned."""


class UnknownEventError(LearnerError):
    """An event is not in quarantine."""


class NeedsDurableLogError(LearnerError):
    """What was asked for needs a log that outlives the learner."""
