"""Runs infra/modal_app.py as in a Modal container: imports it, calls its enter methods, waits for the end of standard input, and calls
its exit methods. `node` is found on PATH.
"""

import importlib.util
import sys
from pathlib import Path

from modal._partial_function import _find_callables_for_obj, _PartialFunctionFlags
from modal._runtime import execution_context

ROOT = Path(__file__).resolve().parent.parent.parent.parent

# With this set, modal.is_local() returns False.
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
