"""The GPU function on Modal: `modal deploy infra/modal_app.py`, which `npm run deploy` runs. Options come from the file
OCTET_CONFIG, infra/config.json by default."""

import json
import os
import subprocess
import threading
from pathlib import Path

import modal

ROOT = Path(__file__).resolve().parent.parent
PORT = 8080
PACKAGES = "/packages"
CONFIG = Path(os.environ.get("OCTET_CONFIG", ROOT / "infra" / "config.json"))

# A container imports this file as well, but has neither the repository nor a need for the options.
gpu = json.loads(CONFIG.read_text())["gpu"] if modal.is_local() else None

if gpu is None:
    app = modal.App()
    image = modal.Image.debian_slim()
    options = {}
else:
    app = modal.App(gpu["app"])
    # Modal adds its Python to the image, for which it must be root, and isolates the container itself.
    image = modal.Image.from_dockerfile(ROOT / "Dockerfile.gpu", context_dir=ROOT, add_python="3.12", build_args={"RUN_AS": "root"})
    options = dict(
        gpu=gpu["gpus"],
        cpu=gpu["cpu"],
        memory=gpu["memory_mib"],
        env={
            "PORT": str(PORT),
            "HOST": "0.0.0.0",
            "OCTET_PACKAGES": PACKAGES,
            "OCTET_PRELOAD": ",".join(gpu["models"]),
            "OCTET_DRAIN_SECONDS": str(max(0, gpu["exit_grace_seconds"] - 10)),
        },
        volumes={PACKAGES: modal.Volume.from_name(gpu["volume"], create_if_missing=True)},
        secrets=[modal.Secret.from_name(gpu["secret"])],
        target_concurrency=gpu["target_concurrency"],
        max_concurrency=gpu["max_concurrency"],
        min_containers=gpu["min_containers"],
        max_containers=gpu["max_containers"],
        buffer_containers=gpu["buffer_containers"],
        scaledown_window=gpu["scaledown_window_seconds"],
        startup_timeout=gpu["startup_timeout_seconds"],
        exit_grace_period=gpu["exit_grace_seconds"],
        routing_region=gpu["routing_region"],
        compute_region=gpu["compute_region"],
    )


# With proxy authentication, only requests with a Modal-Key start a GPU.
@app.server(image=image, port=PORT, unauthenticated=False, **options)
class Gpu:
    @modal.enter()
    def start(self):
        self.stopping = False
        self.process = subprocess.Popen(["node", "/app/gpu-fn/main.ts"])
        threading.Thread(target=self.end_with_process, daemon=True).start()

    def end_with_process(self):
        """Ends the container when the GPU function exits: Modal replaces containers but does not restart processes."""
        code = self.process.wait()
        if self.stopping:
            return
        print(f"the GPU function exited with code {code}; ending the container", flush=True)
        os._exit(code if code > 0 else 1)

    @modal.exit()
    def stop(self):
        # The GPU function accepts no new jobs, finishes its current ones, and exits.
        self.stopping = True
        self.process.terminate()
        self.process.wait()
