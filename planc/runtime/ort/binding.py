"""Sessions bound to memory that somebody else owns."""

from collections.abc import Mapping

import onnxruntime as ort

from planc.importer.submodel import SubModel
from planc.runtime.device import TensorAddress
from planc.runtime.ort.sessions import Run, bound_run


def bound_to(
    session: ort.InferenceSession,
    model: SubModel,
    addresses: Mapping[str, TensorAddress],
    base: int,
    kind: str,
    index: int = 0,
) -> Run:
    """The session of `model` on its ports, which lie behind address `base` in the memory of device `index` of a `kind` of
    ONNX Runtime's. That memory must outlive the result."""
    binding = session.io_binding()
    for ports, bind in ((model.inputs, binding.bind_input), (model.outputs, binding.bind_output)):
        for port in ports:
            address = addresses[port.name]
            bind(port.name, kind, index, address.element_type, address.shape, base + address.offset)
    return bound_run(session, binding)
