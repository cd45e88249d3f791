"""Models made to harm: a typed error or a result, within limits, whatever they hold. The campaign tries them all."""

import os
from functools import partial
from pathlib import Path

import pytest
from support.hostile import HOSTILE
from support.zoo_networks import MOMENTUM

from planc.errors import ModelError
from planc.importer.import_model import import_model
from planc.training import differentiate


def test_a_hostile_model_is_imported_or_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "data").write_bytes(b"0" * 64)
    path, wrong = tmp_path / "m.onnx", list[str]()
    for name, make in HOSTILE.items():
        path.write_bytes(make().SerializeToString())
        uses = {
            "import": partial(import_model, path),
            **{d: partial(differentiate, make(), loss="output", optimizer=MOMENTUM, device=d) for d in ("cpu", "cuda")},
        }
        for what, use in uses.items():
            try:
                use()
            except ModelError as error:
                wrong += [] if str(error) else [f"{name}, {what}: refused without a word"]
            except Exception as error:
                wrong.append(f"{name}, {what}: {error!r}")
    assert wrong == []


@pytest.mark.parametrize("inside", ["initializer", "Constant"])
@pytest.mark.parametrize("place", ["/etc/passwd", "../secret", "pipe", "out/passwd", "/dev/zero"])
def test_data_outside_the_folder_is_refused_by_name(place: str, inside: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out").symlink_to("/etc")
    name = next(n for n in HOSTILE if n.startswith(f"data at {place!r}") and n.endswith(inside))
    (tmp_path / "m.onnx").write_bytes(HOSTILE[name]().SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx.*external data.*(outside the folder|not a regular file)"):
        import_model(tmp_path / "m.onnx")
