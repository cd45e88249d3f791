"""The life of one tensor in a plan: where it is when, who makes it, who moves it, who reads it."""

import difflib
from dataclasses import dataclass

from planc.errors import UsageError
from planc.graph.graph import Graph
from planc.report.view import PlanView, ResidencyView


@dataclass(frozen=True)
class TensorLife:
    """Every residency of the storage behind a tensor, in time order.

    `tensors` share the storage (views, the next value of a state); `shape` and `dtype` are those of the tensor asked
    for. Both, and `readers`, are None without a graph. `readers` lists for each residency the runs whose operators read it.
    """

    name: str
    storage: str
    content: str
    residencies: tuple[ResidencyView, ...]
    readers: tuple[tuple[int, ...], ...] | None = None
    tensors: tuple[str, ...] | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None


def life_of(view: PlanView, name: str, graph: Graph | None = None) -> TensorLife:
    """The life of tensor `name`; without a graph only the names of storages are known.

    Raises UsageError, with names that look alike, when there is no such tensor in the plan.
    """
    if graph is None:
        residencies = _residencies(view, name)
        if not residencies:
            raise _unknown(name, [s.storage for s in view.residencies], "; with --model every tensor's name is known")
        return TensorLife(name, name, residencies[0].content.value, residencies)
    tensor = next((t for t in graph.tensors if t.name == name), None)
    if tensor is None:
        raise _unknown(name, [t.name for t in graph.tensors], "")
    storage = graph.storages[tensor.storage]
    residencies = _residencies(view, storage.name)
    if not residencies:
        raise UsageError(f"tensor {name!r} never lies in the slab: it is a small constant or is not used")
    return TensorLife(
        name=name,
        storage=storage.name,
        content=max(residencies, key=lambda s: s.end - s.begin).content.value,
        residencies=residencies,
        readers=tuple(_readers(view, graph, tensor.storage, residency, residencies) for residency in residencies),
        tensors=tuple(graph.tensors[t].name for t in storage.tensors),
        dtype=tensor.dtype,
        shape=tensor.shape,
    )


def life_json(view: PlanView, life: TensorLife) -> dict[str, object]:
    """The life as one JSON object. Runs are indices; slots and nanoseconds are half-open."""
    readers = life.readers or ((),) * len(life.residencies)
    residencies = [
        {
            "offset": s.offset,
            "bytes": s.bytes,
            "slots": [s.begin, s.end],
            "predicted_ns": [s.begin_ns, s.end_ns],
            "made_by": None if s.maker is None else view.title(s.maker),
            "brought_by_copy": s.brought_by,
            "copied_out_by": list(s.copied_out_by),
            "read_by": [view.title(run) for run in runs] if life.readers is not None else None,
        }
        for s, runs in zip(life.residencies, readers, strict=True)
    ]
    return {
        "tensor": life.name, "storage": life.storage, "content": life.content, "dtype": life.dtype,
        "shape": life.shape, "shares_bytes_with": life.tensors, "stays": residencies,
    }  # fmt: skip


def _residencies(view: PlanView, storage: str) -> tuple[ResidencyView, ...]:
    return tuple(sorted((s for s in view.residencies if s.storage == storage), key=lambda s: s.begin))


def _unknown(name: str, known: list[str], hint: str) -> UsageError:
    alike = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.4)
    meant = f"; did you mean {', '.join(map(repr, alike))}?" if alike else ""
    return UsageError(f"the plan has no tensor {name!r}{meant}{hint}")


def _readers(
    view: PlanView, graph: Graph, storage: int, residency: ResidencyView, residencies: tuple[ResidencyView, ...]
) -> tuple[int, ...]:
    """Runs with an operator that reads the storage while this residency is its latest."""
    later = min((s.begin for s in residencies if s.begin > residency.begin), default=view.slots + 1)
    found = []
    for run, info in enumerate(view.plan.runs):
        layer, first = graph.layers[info.layer], view.first_slot[run]
        slots = (first + op - layer.start for op in range(layer.start, layer.stop) if storage in graph.op_reads[op])
        if any(residency.begin <= slot < later for slot in slots):
            found.append(run)
    return tuple(found)
