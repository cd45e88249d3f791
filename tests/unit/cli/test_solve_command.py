"""`planc solve` as a program: one JSON object on stdout whatever the native solvers print, and the exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planc.instances.replay import replay

INSTANCES = Path(__file__).parents[3] / "benchmarks" / "solver" / "instances"
FIELDS = {"status", "objective", "base_cost", "overhead", "bound", "gap", "peak", "solve_s", "sequence"}


def _planc(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from planc.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "solve", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_answer_is_one_json_object_that_replays() -> None:
    path = INSTANCES / "random_layered_100.json"
    done = _planc(str(path), "--budget", "90%", "--time-limit", "2", "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert set(answer) >= FIELDS
    assert replay(json.loads(path.read_text()), answer, answer["budget_bytes"]) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("vgg16_train.json", "--budget", "50%"), 4, "block1_conv1_backward"),
        (("absent.json", "--budget", "50%"), 3, "absent.json"),
        (("vgg16_train.json", "--budget", "lots"), 2, "lots"),
        (("vgg16_train.json", "--budget", "90%", "--solver", "best"), 2, "best"),
        (("vgg16_train.json", "--budget", "90%", "--d2h", "1e9"), 2, "--h2d"),
    ],
)
def test_failures_are_one_message_and_an_exit_code(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = _planc(str(INSTANCES / arguments[0]), *arguments[1:])
    assert done.returncode == code
    assert done.stdout == ""
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_infeasible_budget_is_one_json_object_too() -> None:
    done = _planc(str(INSTANCES / "vgg16_train.json"), "--budget", "50%", "--json")
    refused = json.loads(done.stdout)
    assert (done.returncode, refused["status"]) == (4, "infeasible")
    assert refused["budget_bytes"] < refused["minimum_budget_bytes"]
    assert refused["minimum_layer"] == "block1_conv1_backward"


def test_native_prints_go_to_stderr() -> None:
    program = (
        "import os, sys; from planc.cli.streams import prepare_streams; prepare_streams();"
        "os.write(1, b'native'); print('data'); sys.stdout.flush()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (f"data{os.linesep}", "native")
