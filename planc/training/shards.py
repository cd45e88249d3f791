"""A step whose optimizer state is divided among the ranks, whole parameters at a time (ZeRO; Rajbhandari et al., 2020).

Every parameter belongs to one rank. Gradients are summed for the owner alone, who keeps the state of the optimizer, updates
the parameter and gives its next value to all. So the steps of the ranks differ, and each counts what it owns; they have
the same exchanges in the same order. The bits are those of a step in which every rank updates everything.

A bucket's new values are awaited behind the updates of the next bucket, which hide the way back.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from planc.kernels.exchange import ALL_REDUCE, BROADCAST, REDUCE
from planc.training.emit.builder import Array, Builder, LayerGroup, Var
from planc.training.micro_batches import Ready
from planc.training.ranks import await_positions, buckets_of, exchange_group, turn_of
from planc.training.step_options import StepOptions
from planc.training.weave import Section, Weave

Hold = Callable[[str, Var, Array | None], None]
"""(state name, next value, initial value or None where the state is declared already)."""


def divided(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """The rank that each parameter belongs to, `sizes` being the bytes that its owner has for it alone.

    The largest comes first, to the rank with the fewest bytes: the fullest has at most 4/3 - 1/(3 N) of what the best
    division gives it (Graham, 1969).
    """
    held, found = [0] * ranks, dict[str, int]()
    for name in sorted(sizes, key=lambda n: -sizes[n]):
        found[name] = owner = min(range(ranks), key=held.__getitem__)
        held[owner] += sizes[name]
    return found


@dataclass
class Shards:
    """The part of one rank: exchanges instead of what others update.

    `gradients` are those of all parameters, in any order; `owners` has the rank of each; `keep` takes next values of
    state.
    """

    weave: Weave
    gradients: Sequence[Ready]
    owners: Mapping[str, int]
    options: StepOptions
    keep: Hold
    _sums: dict[str, Var] = field(default_factory=dict)
    """What is left of each gradient: on its owner the sum over the ranks."""
    _fresh: dict[str, Var] = field(default_factory=dict)
    _known: int = 0
    """Buckets all of whose parameters of this rank are updated."""

    def __post_init__(self) -> None:
        self._buckets = buckets_of(self.gradients, self.options.bucket_bytes)
        self._positions = await_positions(self._buckets)
        self._in_bucket = {ready.name for ready in self.gradients}

    def is_mine(self, name: str) -> bool:
        """Whether the parameter belongs to this rank."""
        return self.owners[name] == self.options.rank

    def _section(self, index: int | None) -> Section:
        """A new section where a bucket is awaited, behind those of the buckets before it; without one, at the end."""
        return self.weave.last() if index is None else self.weave.section(self._positions[index], turn_of(index))

    def reduced(self) -> list[Ready]:
        """Emit the sums of all gradients; returns those of this rank's parameters, each ready where its bucket is
        awaited."""
        found = []
        for index, bucket in enumerate(self._buckets):
            with self.weave.filling(self._section(index), exchange_group(str(index))) as b:
                for ready in bucket:
                    (total,) = b.kernel(
                        REDUCE, [ready.gradient], [f"{ready.name}.reduced"],
                        ranks=self.options.ranks, root=self.owners[ready.name],
                    )  # fmt: skip
                    self._sums[ready.name] = total
                    found.append(replace(ready, gradient=total, position=self._positions[index], turn=turn_of(index)))
            if self.options.waits:
                self._drop(index)
        return [ready for ready in found if self.is_mine(ready.name)]

    def hold(self, name: str, following: Var, zeros: Array | None) -> None:
        """Take the next value of a state; that of a parameter is given to the other ranks."""
        if name not in self._in_bucket:
            self.keep(name, following, zeros)
            return
        self._fresh[name] = following
        self._give_complete()

    def finish(self) -> None:
        """Give what is still to be given: all updates of this rank are emitted."""
        self._give_complete()
        if self._buckets:
            self._give(len(self._buckets) - 1, None)

    def together(self, section: Section, title: str, elements: Mapping[str, Var], like: int) -> Var:
        """A vector with the elements of all gradients, one each, of which every rank has those of its parameters.

        The others are 0 in its own vector; the sum of the vectors has them all, with the bits that they have there.
        """
        group = LayerGroup(f"{title}.parts", "clip", "update")
        names = [ready.name for ready in self.gradients]
        with self.weave.filling(section, group) as b:
            zero = b.full((1,), 0.0, like)
            parts = b.concat([elements.get(name, zero) for name in names], 0)
        with self.weave.filling(section, exchange_group(title)) as b:
            (whole,) = b.kernel(ALL_REDUCE, [parts], [f"{title}.of_all"], ranks=self.options.ranks)
        return whole

    # --- parameters on their way back

    def _give_complete(self) -> None:
        while self._known < len(self._buckets) and self._is_complete(self._known):
            if self._known:
                self._give(self._known - 1, None if self.options.waits else self._known)
            self._known += 1

    def _is_complete(self, index: int) -> bool:
        return all(ready.name in self._fresh for ready in self._buckets[index] if self.is_mine(ready.name))

    def _give(self, index: int, behind: int | None) -> None:
        """Emit the way back of a bucket's parameters, awaited behind the updates of another, or at the end."""
        bucket = self._buckets[index]
        with self.weave.filling(self._section(behind), exchange_group(f"{index}.room")) as b:
            operands = [self._fresh[r.name] if self.is_mine(r.name) else self._room(b, r.name) for r in bucket]
        with self.weave.filling(self._section(behind), exchange_group(f"{index}.parameters")) as b:
            for ready, operand in zip(bucket, operands, strict=True):
                (given,) = b.kernel(
                    BROADCAST, [operand], [f"{ready.name}.given"],
                    ranks=self.options.ranks, root=self.owners[ready.name],
                )  # fmt: skip
                self.keep(ready.name, given, None)

    def _drop(self, index: int) -> None:
        """Let go of gradients that are other ranks', one element excepted: it will be long until the bytes are needed."""
        with self.weave.filling(self._section(index), exchange_group(f"{index}.dropped")) as b:
            for ready in self._buckets[index]:
                if not self.is_mine(ready.name):
                    total = self._sums[ready.name]
                    flat = b.reshape(total, (total.size,))
                    self._sums[ready.name] = b.op("Gather", [flat, b.ints((0,))], (1,), total.dtype, axis=0)

    def _room(self, b: Builder, name: str) -> Var:
        """Bytes for a parameter of another rank: those of its gradient, or where that was dropped, new ones."""
        total, shape = self._sums[name], self.weave.b.values[name].shape
        if not self.options.waits:
            return total
        size = self.weave.b.values[name].size
        return b.reshape(b.expand(total, (size,)), shape)


def step_hash(weave: Weave, groups: object, options: StepOptions) -> str:
    """A hash that the steps of all ranks share, and no other: of what all ranks compute alike, and how they update."""
    digest = hashlib.sha256(repr((groups, replace(options, rank=0))).encode())
    for node in weave.body:
        digest.update(node.SerializeToString(deterministic=True))
    return digest.hexdigest()
