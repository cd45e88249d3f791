"""Functions that compiled code alone calls: what they are made of becomes machine code with their callers only.

numba optimises every function with all that it calls and turns it into machine code, then does both again for its copy in
every caller. With a tree of small functions below one that Python calls, that is most of LLVM's work, and only the last
time counts. A *part* is handed on as numba has lowered it.
"""

from typing import Any

from numba._dynfunc import make_function
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """A function's code, for callers to link only. What numba does to it otherwise is done to the caller with it."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):  # type: ignore[misc]
    """Lowers into such a library, and tells callers to link it."""

    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        """Lower the function of `state`."""
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        made = state["cr"]
        # As numba makes it of a function without a way in from Python: an address of 0, which nobody calls.
        entry = make_function(made.fndesc.lookup_module(), made.fndesc.qualname, "", 0, made.env, (state.library,))
        state.targetctx.insert_user_function(entry, made.fndesc, [state.library])
        state["cr"] = made._replace(cfunc=entry)
        return True


class PartCompiler(CompilerBase):  # type: ignore[misc]
    """For numba's `pipeline_class`, with `no_cpython_wrapper` and `no_cfunc_wrapper`."""

    def define_pipelines(self) -> list[Any]:
        """numba's passes, with a lowering of our own."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state, "part")
        passes.passes = [(_PartLowering if p is NativeLowering else p, about) for p, about in passes.passes]
        passes.finalize()
        return [passes]
