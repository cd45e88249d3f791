"""Models made to harm: a typed error or a result, within limits, whatever they hold. The campaign tries them all."""

import os
from pathlib import Path

import pytest
from support.hostile import HOSTILE
from support.zoo_networks import MOMENTUM

from planc.errors import ModelError
from planc.importer.import_model import import_model
from planc.training import differentiate

CHOSEN = [name for at, name in enumerate(HOSTILE) if at % 6 == 0 or "data at" in name or "function" in name]


@pytest.mark.parametrize("name", CHOSEN)
def test_a_hostile_model_is_imported_or_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "data").write_bytes(b"0" * 64)
    (tmp_path / "m.onnx").write_bytes(HOSTILE[name]().SerializeToString())
    messages = []
    for use in (import_model, lambda path: differentiate(HOSTILE[name](), loss="output", optimizer=MOMENTUM)):
        try:
            use(tmp_path / "m.onnx")
        except ModelError as error:
            messages.append(str(error))
    assert all(messages)


@pytest.mark.parametrize("inside", ["initializer", "Constant"])
@pytest.mark.parametrize("place", ["/etc/passwd", "../secret", "pipe", "out/passwd", "/dev/zero"])
def test_data_outside_the_folder_is_refused_by_name(place: str, inside: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out").symlink_to("/etc")
    name = next(n for n in HOSTILE if n.startswith(f"data at {place!r}") and n.endswith(inside))
    (tmp_path / "m.onnx").write_bytes(HOSTILE[name]().SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx.*external data.*(outside the folder|not a regular file)"):
        import_model(tmp_path / "m.onnx")
