"""Plans kept between processes, by what they were made of: the second compilation of the same step solves nothing."""

import hashlib
import warnings
from importlib.metadata import version
from pathlib import Path

import msgspec

from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.compiler.within import compile_within
from planc.errors import OutputError, PlancWarning, PlanError, VerificationError
from planc.files import UNREADABLE, read_file, write_output
from planc.plan.codec import encoded
from planc.plan.plan import FORMAT, Plan
from planc.profiling.cache import plan_folder
from planc.verifier.verify import require_valid


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A plan with the key that it was made for, so that a file that was renamed or copied is noticed."""

    key: str
    plan: Plan


def cached_plan(job: CompileJob, options: CompileOptions) -> Plan:
    """The plan of `job` within `options`, from the cache where one lies there and is valid, else made and kept.

    A file that is damaged, of another step, or no valid plan is passed over with a PlancWarning and made anew. Raises what
    `compile_within` raises.
    """
    key = _key(job, options)
    path = plan_folder() / f"{key}.json"
    known = _known(path, key, job)
    if known is not None:
        return known
    plan = compile_within(job, options).plan
    _keep(_Entry(key=key, plan=plan), path)
    return plan


def _key(job: CompileJob, options: CompileOptions) -> str:
    """Graph, measured costs (which name device and libraries), and every option that a plan depends on."""
    chosen = [options.budget, options.solver, options.time_limit_s, options.seed, options.host_memory, options.gap]
    parts = [version("planc"), FORMAT, job.imported.graph.content_hash, *chosen, options.deterministic]
    digest = hashlib.sha256(msgspec.json.encode([str(part) for part in parts]))
    digest.update(msgspec.json.encode(job.costs))
    return digest.hexdigest()[:32]


def _known(path: Path, key: str, job: CompileJob) -> Plan | None:
    if not path.exists():
        return None
    try:
        entry = msgspec.json.decode(read_file(path), type=_Entry)
        if entry.key != key:
            raise PlanError(f"{path}: made for another step or other options")
        require_valid(job.imported.graph, entry.plan, str(path))
    except (*UNREADABLE, PlanError, VerificationError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"a cached plan is not used and made anew: {reason}", PlancWarning, stacklevel=4)
        return None
    return entry.plan


def _keep(entry: _Entry, path: Path) -> None:
    """Write the plan for the next process; where that fails, this one goes on with what it has."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, encoded(entry), "plan")
    except (OSError, OutputError) as error:
        text = f"the plan is not kept: {error}; set PLANC_CACHE_DIR to a folder that can be written"
        warnings.warn(text, PlancWarning, stacklevel=4)
