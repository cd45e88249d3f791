"""Words with a fixed set of values that several rooms use: what is known of a result, the copy engines, exchanges,
host tiers."""

from enum import StrEnum


class Status(StrEnum):
    """What is known of a solution or packing.

    `optimal`: its bound proves it (schedules: to a gap of 0.01 %); `feasible`: it may not be the best; `infeasible`:
    none exists; `timeout`: none was found in time; `refused`: the policy does not take on such a problem.
    """

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    TIMEOUT = "timeout"
    REFUSED = "refused"


class Direction(StrEnum):
    """The two copy engines: device to host, host to device."""

    OUT = "out"
    IN = "in"


class ExchangeKind(StrEnum):
    """What ranks do with a tensor that each of them has: sum it for all, sum it for one, give that of one to all."""

    ALL_REDUCE = "all-reduce"
    REDUCE = "reduce"
    BROADCAST = "broadcast"


class HostTierKind(StrEnum):
    """Where swapped bytes go: memory of the host, or a file."""

    RAM = "ram"
    FILE = "file"
