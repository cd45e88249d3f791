"""Bad files: models made to harm, and plans, cost tables, states, buffers and instances damaged at random."""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import safetensors.numpy
from support.costs import made_up_costs
from support.damage import damage_bytes, damage_document, damage_model
from support.hostile import HOSTILE
from support.plans import random_plan
from support.zoo_networks import MOMENTUM, small_forward, small_step

from benchmarks.reliability.count import Count
from benchmarks.reliability.limits import command
from planc.costs.store import write_costs
from planc.importer.import_model import import_model

_ESTIMATE = ("--device", "T4", "--solver", "keep-all", "--time-limit", "0.2", "-o", "new.plan.json")


def models(scale: int) -> dict[str, Count]:
    """Every hostile model, compiled and differentiated; in the short form every twentieth."""
    count = Count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.mkfifo(folder / "pipe")
        (folder / "out").symlink_to("/etc")
        (folder / "data").write_bytes(b"0" * 64)
        for serial, (title, make) in enumerate(HOSTILE.items()):
            if scale < 10 and serial % 20:
                continue
            (folder / "m.onnx").write_bytes(make().SerializeToString())
            for arguments in (("compile", "m.onnx", *_ESTIMATE), ("grad", "m.onnx", "--loss", "mse", "-o", "g.onnx")):
                fault = command(arguments, folder)
                count.add(None if fault is None else f"{arguments[0]} {title}: {fault}")
    return {"hostile models": count}


def damaged(scale: int) -> dict[str, Count]:
    """Each kind of file damaged `10 * scale` times, and read by the commands that read it."""
    kinds: dict[str, tuple[str, Callable[[Path, random.Random], None], list[tuple[object, ...]]]] = {
        "damaged plans": ("train.plan.json", _json_or_bytes, [
            ("verify", "train.plan.json"), ("inspect", "train.plan.json", "--at-peak", "--html", "p.html"),
            ("run", "train.plan.json", "--steps", "1")]),
        "damaged models": ("train.onnx", _model, [
            ("compile", "train.onnx", *_ESTIMATE), ("run", "train.plan.json", "--steps", "1")]),
        "damaged forward models": ("forward.onnx", _model, [
            ("grad", "forward.onnx", "--loss", "cross-entropy", "-o", "g.onnx")]),
        "damaged cost tables": ("costs.json", _json_or_bytes, [
            ("compile", "train.onnx", "--costs", "costs.json", "--solver", "keep-all", "-o", "new.plan.json")]),
        "damaged states": ("state.safetensors", _bytes, [
            ("import-ort", "train.onnx", "train.onnx", "--weights", "state.safetensors", "-o", "o.onnx")]),
        "damaged buffers": ("buffers.csv", _bytes, [("pack", "buffers.csv", "--time-limit", "0.2", "-o", "out.csv")]),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        sound(whole)
        return {title: _damaged(whole, Path(name), 10 * scale, *kind) for title, kind in kinds.items()}


def sound(folder: Path) -> None:
    """Write one file of every kind, each as it should be."""
    model = small_step("mlp", MOMENTUM)
    onnx.save(model, folder / "train.onnx")
    onnx.save(small_forward("mlp").model, folder / "forward.onnx")
    imported = import_model(folder / "train.onnx")
    write_costs(made_up_costs(imported.graph, scratch=4 << 10), folder / "costs.json")
    random_plan(imported, 1, True).save(folder / "train.plan.json")
    safetensors.numpy.save_file({"w": np.ones((4, 4), np.float32)}, folder / "state.safetensors")
    rows = [f"{i},{i},{i + 3},{10 * i}" for i in range(6)]
    (folder / "buffers.csv").write_text("\n".join(["id,lower,upper,size", *rows]))


def _damaged(
    whole: Path, root: Path, times: int, file: str, damage: Callable[[Path, random.Random], None],
    commands: list[tuple[object, ...]],
) -> Count:  # fmt: skip
    count = Count()
    for serial in range(times):
        here = Path(shutil.copytree(whole, root / "here"))
        damage(here / file, random.Random(f"{file} {serial}"))
        for arguments in commands:
            fault = command(arguments, here)
            count.add(None if fault is None else f"{arguments[0]} {file} {serial}: {fault}")
        shutil.rmtree(here)
    return count


def _bytes(path: Path, rng: random.Random) -> None:
    path.write_bytes(damage_bytes(path.read_bytes(), rng))


def _json_or_bytes(path: Path, rng: random.Random) -> None:
    if rng.random() < 0.3:
        _bytes(path, rng)
        return
    document = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 2, 4))):
        damage_document(document, rng)
    path.write_text(json.dumps(document))


def _model(path: Path, rng: random.Random) -> None:
    if rng.random() < 0.4:
        _bytes(path, rng)
        return
    model = onnx.load(path)
    damage_model(model, rng)
    onnx.save(model, path)
