"""Runs infra/modal_app.py as a container does: imports it, calls the methods that Modal calls at the start, and at the end of standard input
those of the end. `node` is found on PATH.
"""

import importlib.util
import sys
from pathlib import Path

from modal._partial_function import _find_callables_for_obj, _PartialFunctionFlags
from modal._runtime import execution_context

ROOT = Path(__file__).resolve().parent.parent.parent.parent

# What modal.is_local() looks at.
execution_context._TaskLifecycleManager._singleton = object()
spec = importlib.util.spec_from_file_location("modal_app", ROOT / "infra" / "modal_app.py")
modal_app = importlib.util.module_from_spec(spec)
spec.loader.exec_module(modal_app)
server = modal_app.Gpu._get_user_cls()()


def call(flags: int) -> None:
    for method in _find_callables_for_obj(server, flags).values():
        method()


call(_PartialFunctionFlags.ENTER_PRE_SNAPSHOT)
call(_PartialFunctionFlags.ENTER_POST_SNAPSHOT)
print(f"process {server.process.pid}", flush=True)
sys.stdin.read()
call(_PartialFunctionFlags.EXIT)
