"""Helpers of clients.py: calls of Octet's own API, expectations, and the report of a case."""

import contextlib
import importlib.metadata
import json
import os
import threading
import time
import urllib.request

URL = os.environ["OCTET_URL"]
KEY = os.environ["OCTET_KEY"]
LIMITED_KEY = os.environ["OCTET_LIMITED_KEY"]
BAD_KEY = "nonsense"
PROMPT = "a red heart on a blue sky"
SIZE = "256x256"
# Long enough to be canceled, and to outlast a client that waits for TIMEOUT seconds.
LONG_STEPS = 200
TIMEOUT = 0.5
FAILURES: list[str] = []


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def call(method, path, body=None, key=KEY):
    """A request to Octet's own API."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{URL}{path}", data=data, headers=headers, method=method)
    with urllib.request.urlopen(request) as response:
        return json.loads(response.read())


def newest_job():
    return call("GET", "/v1/jobs?limit=1")["data"][0]


def wait_for(job, state):
    end = time.monotonic() + 30
    while (found := call("GET", f"/v1/jobs/{job}")["state"]) != state:
        check(time.monotonic() < end, f"the job is {found}, not {state}")
        time.sleep(0.1)


def cancel_open_jobs():
    for job in call("GET", "/v1/jobs?limit=20")["data"]:
        if job["state"] == "in_progress":
            call("POST", f"/v1/jobs/{job['id']}/cancel")
            wait_for(job["id"], "canceled")


@contextlib.contextmanager
def busy(seconds=None):
    """The limited key has a job until the end of the block, or for so many seconds."""
    job = call("POST", "/v1/jobs", {"prompt": PROMPT, "steps": LONG_STEPS, "n": 8}, LIMITED_KEY)["id"]
    end = lambda: call("POST", f"/v1/jobs/{job}/cancel", key=LIMITED_KEY)
    timer = threading.Timer(seconds or 0, end)
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        end()
        wait_for(job, "canceled")


def download(url):
    """The file behind a link, without a key."""
    with urllib.request.urlopen(url) as response:
        check(response.read(8)[1:4] == b"PNG", f"{url} is no PNG file")


def raises(run, *words, kind=Exception):
    """The call raises an error of a kind with these words."""
    try:
        run()
    except Exception as error:
        check(isinstance(error, kind), f"the error is {type(error).__name__}: {str(error)[:300]}")
        text = f"{error} {getattr(error, 'body', '')} {getattr(getattr(error, 'response', None), 'text', '')}"
        for word in words:
            check(word in text, f"the error has no {word!r}: {text[:300]}")
        return
    raise AssertionError("the call raised nothing")


def times_out(run, kind=Exception):
    """The client gives up."""
    try:
        raises(run, kind=kind)
    finally:
        cancel_open_jobs()


def refused(run, *words, kind=Exception):
    """The call is refused because the key has another job."""
    with busy():
        raises(run, *words, kind=kind)


def retried(run):
    """The client repeats the call until the other job of the key has ended."""
    with busy(0.5):
        return run()


def case(package, name):
    """Runs a function at once and reports its result."""

    def run(function):
        version = importlib.metadata.version(package)
        try:
            function()
            print(f"ok    {package} {version}: {name}", flush=True)
        except Exception as error:
            FAILURES.append(f"{package}: {name}")
            print(f"FAIL  {package} {version}: {name}: {type(error).__name__}: {str(error)[:600]}", flush=True)

    return run
