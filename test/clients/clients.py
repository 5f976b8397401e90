"""Calls a worker through Python's clients, with only the address and the key changed. Prints a line per case.

Environment: OCTET_URL, an address of a worker with the built-in model; OCTET_KEY, an API key; OCTET_LIMITED_KEY, a key that may
have one job at a time.
"""

import contextlib
import io
import os
import pathlib
import re
import sys
import time

from support import (
    BAD_KEY,
    FAILURES,
    KEY,
    LIMITED_KEY,
    LONG_STEPS,
    PROMPT,
    SIZE,
    TIMEOUT,
    URL,
    call,
    case,
    check,
    download,
    newest_job,
    raises,
    refused,
    retried,
    times_out,
    wait_for,
)


def test_openai():
    import openai

    def client(key=KEY, **options):
        return openai.OpenAI(api_key=key, base_url=f"{URL}/v1", **{"max_retries": 0, **options})

    def generate(key=KEY, options={}, **fields):
        return client(key, **options).images.generate(**{"model": "nano", "prompt": PROMPT, "size": SIZE, **fields})

    def stream():
        events = list(generate(stream=True, partial_images=1))
        kinds = [event.type for event in events]
        check(kinds == ["image_generation.partial_image", "image_generation.completed"], f"the events are {kinds}")
        check(events[-1].b64_json and events[-1].usage.total_tokens > 0, "the last event is incomplete")

    def cancel():
        extra = {"steps": LONG_STEPS, "on_disconnect": "cancel"}
        events = generate(stream=True, partial_images=3, extra_body=extra)
        next(iter(events))
        events.close()
        wait_for(newest_job()["id"], "canceled")

    def retry_after_timeout():
        before = newest_job()["id"]
        data = generate(options={"timeout": 2, "max_retries": 9}, extra_body={"steps": 60}).data
        check(data[0].b64_json, "there is no image")
        jobs = [job["id"] for job in call("GET", "/v1/jobs?limit=10")["data"]]
        check(jobs.index(before) == 1, f"the call made {jobs.index(before)} jobs")

    def readme():
        """The example of the README."""
        os.environ.update(OPENAI_BASE_URL=f"{URL}/v1", OPENAI_API_KEY=KEY)
        text = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
        code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(code, {})
        download(output.getvalue().strip())

    long = lambda: generate(options={"timeout": TIMEOUT}, extra_body={"steps": LONG_STEPS})
    case("openai", "the example of the README")(readme)
    case("openai", "generate")(lambda: download(generate(response_format="url").data[0].url))
    case("openai", "generate by default names")(lambda: check(generate(model="gpt-image-1", size="1024x1024").data[0].b64_json, "no image"))
    case("openai", "stream")(stream)
    case("openai", "cancel")(cancel)
    case("openai", "timeout")(lambda: times_out(long, openai.APITimeoutError))
    case("openai", "rate limit")(lambda: refused(lambda: generate(LIMITED_KEY), "concurrent jobs", kind=openai.RateLimitError))
    case("openai", "bad key")(lambda: raises(lambda: generate(BAD_KEY), "API key is invalid", kind=openai.AuthenticationError))
    case("openai", "bad parameter")(lambda: raises(lambda: generate(n=99), "n is 99", kind=openai.BadRequestError))
    case("openai", "retry after a rate limit")(lambda: retried(lambda: generate(LIMITED_KEY, {"max_retries": 9})))
    case("openai", "retry after a timeout, as one job")(retry_after_timeout)
    case("openai", "models")(lambda: check(client().models.retrieve("dall-e-3").id == "dall-e-3", "the model has another name"))


def test_replicate():
    import replicate
    from replicate.exceptions import ReplicateError

    def client(key=KEY):
        return replicate.Client(api_token=key, base_url=URL)

    parameters = {"prompt": PROMPT, "width": 256, "height": 256}
    long = {**parameters, "num_inference_steps": LONG_STEPS}

    def stream():
        events = list(client().stream("octet/nano-turbo", input=parameters, use_file_output=False))
        download([str(event) for event in events if event.event.value == "output"][0])

    def cancel():
        prediction = client().models.predictions.create(model="octet/nano", input=long)
        prediction.cancel()
        prediction.wait()
        check(prediction.status == "canceled", f"the status is {prediction.status}")

    def poll():
        prediction = client().models.predictions.create(model="octet/nano", input=parameters)
        prediction.wait()
        download(prediction.output[0])
        check(len(client().predictions.list().results) > 0, "the list is empty")

    def progress():
        prediction = client().models.predictions.create(model="octet/nano", input=long)
        end = time.monotonic() + 20
        while not prediction.progress and time.monotonic() < end:
            time.sleep(0.1)
            prediction.reload()
        check(prediction.progress and prediction.progress.total == LONG_STEPS, f"the progress is {prediction.progress}")
        prediction.cancel()
        prediction.wait()

    def run(key=KEY, model="octet/nano-turbo", **fields):
        return client(key).run(model, input={**parameters, **fields})

    def outlast():
        """The client extends its time limit by the wait, and polls afterward."""
        output = client().run("octet/nano", input={**parameters, "num_inference_steps": 60}, wait=1)
        download(output[0])

    case("replicate", "run")(lambda: download(run()[0]))
    case("replicate", "run a version")(lambda: download(run(model="octet/nano:nano")[0]))
    case("replicate", "create, wait and list")(poll)
    case("replicate", "progress")(progress)
    case("replicate", "stream")(stream)
    case("replicate", "cancel")(cancel)
    case("replicate", "a job that outlasts its wait")(outlast)
    case("replicate", "rate limit")(lambda: refused(lambda: run(LIMITED_KEY), "concurrent jobs", "429", kind=ReplicateError))
    case("replicate", "bad key")(lambda: raises(lambda: run(BAD_KEY), "API key is invalid", "401", kind=ReplicateError))
    case("replicate", "bad parameter")(lambda: raises(lambda: run(steps=1000), "steps is 1000", kind=ReplicateError))


def test_fal():
    import fal_client
    import fal_client.client as module
    from fal_client.client import FalClientHTTPError

    # The client has https addresses only: FAL_RUN_HOST and FAL_QUEUE_RUN_HOST. The worker under test has no certificate.
    module.RUN_URL_FORMAT = f"{URL}/fal/run/"
    module.QUEUE_URL_FORMAT = f"{URL}/fal/queue/"
    attempts = module.MAX_ATTEMPTS
    parameters = {"prompt": PROMPT, "image_size": {"width": 256, "height": 256}}
    long = {**parameters, "num_inference_steps": LONG_STEPS}

    def client(key=KEY):
        return fal_client.SyncClient(key=key)

    def cancel():
        handle = client().submit("octet/nano", arguments=long)
        handle.cancel()
        raises(handle.get, "canceled")

    def stream():
        events = list(client().stream("octet/nano-turbo", arguments=parameters))
        download(events[-1]["images"][0]["url"])

    def run(key=KEY, **fields):
        return client(key).run("octet/nano-turbo", arguments={**parameters, **fields})

    def once(function):
        """Without the client's own retries."""
        module.MAX_ATTEMPTS = 1
        try:
            function()
        finally:
            module.MAX_ATTEMPTS = attempts

    def retry_after_timeout():
        before = newest_job()["id"]
        made = client().run("octet/nano", arguments={**parameters, "num_inference_steps": 60}, timeout=2)
        download(made["images"][0]["url"])
        jobs = [job["id"] for job in call("GET", "/v1/jobs?limit=10")["data"]]
        check(jobs.index(before) == 1, f"the call made {jobs.index(before)} jobs")

    subscribe = lambda key=KEY: client(key).subscribe("octet/nano-turbo", arguments=parameters, with_logs=True)
    outlast = lambda: client().subscribe("octet/nano", arguments=long, client_timeout=TIMEOUT)
    case("fal_client", "subscribe")(lambda: download(subscribe()["images"][0]["url"]))
    case("fal_client", "run")(lambda: download(run()["images"][0]["url"]))
    case("fal_client", "stream")(stream)
    case("fal_client", "cancel")(cancel)
    case("fal_client", "timeout")(lambda: times_out(outlast))
    limited = lambda: refused(lambda: run(LIMITED_KEY), "concurrent jobs", kind=FalClientHTTPError)
    case("fal_client", "rate limit")(lambda: once(limited))
    case("fal_client", "bad key")(lambda: raises(lambda: run(BAD_KEY), "API key is invalid", kind=FalClientHTTPError))
    bad = lambda: run(num_inference_steps=1000)
    case("fal_client", "bad parameter")(lambda: raises(bad, "num_inference_steps is 1000", kind=FalClientHTTPError))
    case("fal_client", "retry after a rate limit")(lambda: retried(lambda: subscribe(LIMITED_KEY)))
    case("fal_client", "retry after a timeout, as one job")(retry_after_timeout)


def test_hugging_face():
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError

    def generate(key=KEY, model="nano-turbo", timeout=None, **fields):
        client = huggingface_hub.InferenceClient(base_url=f"{URL}/hf/{model}", api_key=key, timeout=timeout)
        return client.text_to_image(PROMPT, width=256, height=256, **fields)

    long = lambda: generate(model="nano", timeout=TIMEOUT, num_inference_steps=LONG_STEPS)
    case("huggingface_hub", "text_to_image")(lambda: check(generate().size == (256, 256), "the size is not 256x256"))
    case("huggingface_hub", "timeout")(lambda: times_out(long, InferenceTimeoutError))
    limited = lambda: generate(LIMITED_KEY)
    case("huggingface_hub", "rate limit")(lambda: refused(limited, "concurrent jobs", "429", kind=HfHubHTTPError))
    case("huggingface_hub", "bad key")(lambda: raises(lambda: generate(BAD_KEY), "API key is invalid", kind=HfHubHTTPError))
    bad = lambda: generate(num_inference_steps=1000)
    case("huggingface_hub", "bad parameter")(lambda: raises(bad, "num_inference_steps is 1000", kind=HfHubHTTPError))


def test_litellm():
    # Otherwise the package downloads a list of prices.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    litellm.suppress_debug_info = True

    def generate(key=KEY, **fields):
        options = {"size": SIZE, "max_retries": 0, **fields}
        return litellm.image_generation(model="openai/nano", prompt=PROMPT, api_base=f"{URL}/v1", api_key=key, **options)

    def image(reply):
        data = reply.data[0]
        download(data.url) if data.url else check(data.b64_json, "there is no image")

    long = lambda: generate(timeout=TIMEOUT, extra_body={"steps": LONG_STEPS})
    case("litellm", "image_generation")(lambda: image(generate()))
    case("litellm", "timeout")(lambda: times_out(long))
    limited = lambda: generate(LIMITED_KEY)
    case("litellm", "rate limit")(lambda: refused(limited, "concurrent jobs", kind=litellm.RateLimitError))
    case("litellm", "bad key")(lambda: raises(lambda: generate(BAD_KEY), "API key is invalid", kind=litellm.AuthenticationError))
    case("litellm", "bad parameter")(lambda: raises(lambda: generate(n=99), "n is 99", kind=litellm.BadRequestError))
    case("litellm", "retry after a rate limit")(lambda: image(retried(lambda: generate(LIMITED_KEY, max_retries=9))))


def test_langchain():
    import openai
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

    def run(key=KEY, **fields):
        options = {"size": SIZE, "max_retries": 0, "model": "nano", **fields}
        return DallEAPIWrapper(api_key=key, base_url=f"{URL}/v1", **options).run(PROMPT)

    name = "langchain-community"
    slow = {"n": 8, "size": "384x384"}
    case(name, "DallEAPIWrapper")(lambda: download(run()))
    case(name, "timeout")(lambda: times_out(lambda: run(timeout=TIMEOUT, **slow), openai.APITimeoutError))
    case(name, "rate limit")(lambda: refused(lambda: run(LIMITED_KEY), "concurrent jobs", kind=openai.RateLimitError))
    case(name, "bad key")(lambda: raises(lambda: run(BAD_KEY), "API key is invalid", kind=openai.AuthenticationError))
    case(name, "bad parameter")(lambda: raises(lambda: run(size="huge"), "size is", kind=openai.BadRequestError))
    case(name, "retry after a rate limit")(lambda: download(retried(lambda: run(LIMITED_KEY, max_retries=9))))


for test in [test_openai, test_replicate, test_fal, test_hugging_face, test_litellm, test_langchain]:
    try:
        test()
    except Exception as error:
        FAILURES.append(test.__name__)
        print(f"FAIL  {test.__name__}: {error}", flush=True)
sys.exit(1 if FAILURES else 0)
