"""Calls a worker through Python's clients, with only the address and the key changed. Prints a line per case.

Environment: OCTET_URL, an address of a worker with the built-in model; OCTET_KEY, an API key.
"""

import importlib.metadata
import os
import sys
import urllib.request

URL = os.environ["OCTET_URL"]
KEY = os.environ["OCTET_KEY"]
BAD_KEY = "nonsense"
PROMPT = "a red heart on a blue sky"
SIZE = "256x256"
FAILURES: list[str] = []


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def download(url):
    with urllib.request.urlopen(url) as response:
        check(response.read(8)[1:4] == b"PNG", f"{url} is no PNG file")


def raises(call, *words):
    """The call raises an error with these words."""
    try:
        call()
    except Exception as error:
        text = f"{error} {getattr(error, 'body', '')} {getattr(getattr(error, 'response', None), 'text', '')}"
        for word in words:
            check(word in text, f"the error has no {word!r}: {text[:300]}")
        return
    raise AssertionError("the call raised nothing")


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


def test_openai():
    import openai

    def client(key=KEY):
        return openai.OpenAI(api_key=key, base_url=f"{URL}/v1", max_retries=0)

    def generate(**fields):
        return client().images.generate(model="nano", prompt=PROMPT, size=SIZE, **fields)

    case("openai", "generate")(lambda: download(generate(response_format="url").data[0].url))
    case("openai", "bad key")(lambda: raises(lambda: client(BAD_KEY).images.generate(prompt=PROMPT), "API key is invalid"))
    case("openai", "bad parameter")(lambda: raises(lambda: generate(n=99), "n is 99"))


def test_replicate():
    import replicate

    def client(key=KEY):
        return replicate.Client(api_token=key, base_url=URL)

    parameters = {"prompt": PROMPT, "width": 256, "height": 256}

    def stream():
        events = list(client().stream("octet/nano-turbo", input=parameters, use_file_output=False))
        download([str(event) for event in events if event.event.value == "output"][0])

    def cancel():
        prediction = client().models.predictions.create(model="octet/nano", input=parameters)
        prediction.cancel()
        prediction.wait()
        check(prediction.status == "canceled", f"the status is {prediction.status}")

    def progress():
        prediction = client().models.predictions.create(model="octet/nano", input=parameters)
        prediction.wait()
        download(prediction.output[0])
        check(len(client().predictions.list().results) > 0, "the list is empty")

    def bad(key=KEY, **fields):
        return client(key).run("octet/nano", input={**parameters, **fields})

    case("replicate", "run")(lambda: download(client().run("octet/nano-turbo", input=parameters)[0]))
    case("replicate", "run a version")(lambda: download(client().run("octet/nano:nano", input=parameters)[0]))
    case("replicate", "create, wait and list")(progress)
    case("replicate", "stream")(stream)
    case("replicate", "cancel")(cancel)
    case("replicate", "bad key")(lambda: raises(lambda: bad(BAD_KEY), "API key is invalid"))
    case("replicate", "bad parameter")(lambda: raises(lambda: bad(steps=1000), "steps is 1000"))


def test_fal():
    import fal_client
    import fal_client.client as module

    # The client has https addresses only: FAL_RUN_HOST and FAL_QUEUE_RUN_HOST. The worker under test has no certificate.
    module.RUN_URL_FORMAT = f"{URL}/fal/run/"
    module.QUEUE_URL_FORMAT = f"{URL}/fal/queue/"
    parameters = {"prompt": PROMPT, "image_size": {"width": 256, "height": 256}}

    def client(key=KEY):
        return fal_client.SyncClient(key=key)

    def cancel():
        handle = client().submit("octet/nano", arguments=parameters)
        handle.cancel()
        raises(handle.get, "canceled")

    def stream():
        events = list(client().stream("octet/nano-turbo", arguments=parameters))
        download(events[-1]["images"][0]["url"])

    def bad(key=KEY, **fields):
        return client(key).run("octet/nano", arguments={**parameters, **fields})

    subscribe = lambda: client().subscribe("octet/nano-turbo", arguments=parameters, with_logs=True)
    case("fal_client", "subscribe")(lambda: download(subscribe()["images"][0]["url"]))
    case("fal_client", "run")(lambda: download(client().run("octet/nano-turbo", arguments=parameters)["images"][0]["url"]))
    case("fal_client", "stream")(stream)
    case("fal_client", "cancel")(cancel)
    case("fal_client", "bad key")(lambda: raises(lambda: bad(BAD_KEY), "API key is invalid"))
    case("fal_client", "bad parameter")(lambda: raises(lambda: bad(num_inference_steps=1000), "num_inference_steps is 1000"))


def test_hugging_face():
    import huggingface_hub

    def generate(key=KEY, **fields):
        client = huggingface_hub.InferenceClient(base_url=f"{URL}/hf/nano-turbo", api_key=key)
        return client.text_to_image(PROMPT, width=256, height=256, **fields)

    case("huggingface_hub", "text_to_image")(lambda: check(generate().size == (256, 256), "the size is not 256x256"))
    case("huggingface_hub", "bad key")(lambda: raises(lambda: generate(BAD_KEY), "API key is invalid"))
    bad = lambda: generate(num_inference_steps=1000)
    case("huggingface_hub", "bad parameter")(lambda: raises(bad, "num_inference_steps is 1000"))


def test_litellm():
    # Otherwise the package downloads a list of prices.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    def generate(key=KEY, **fields):
        fields = {"size": SIZE, **fields}
        return litellm.image_generation(
            model="openai/nano", prompt=PROMPT, api_base=f"{URL}/v1", api_key=key, max_retries=0, **fields
        )

    def image():
        data = generate().data[0]
        download(data.url) if data.url else check(data.b64_json, "there is no image")

    case("litellm", "image_generation")(image)
    case("litellm", "bad key")(lambda: raises(lambda: generate(BAD_KEY), "API key is invalid"))
    case("litellm", "bad parameter")(lambda: raises(lambda: generate(n=99), "n is 99"))


def test_langchain():
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

    def run(key=KEY, **fields):
        fields = {"size": SIZE, **fields}
        wrapper = DallEAPIWrapper(
            model="nano", api_key=key, base_url=f"{URL}/v1", max_retries=0, **fields
        )
        return wrapper.run(PROMPT)

    case("langchain-community", "DallEAPIWrapper")(lambda: download(run()))
    case("langchain-community", "bad key")(lambda: raises(lambda: run(BAD_KEY), "API key is invalid"))


for test in [test_openai, test_replicate, test_fal, test_hugging_face, test_litellm, test_langchain]:
    try:
        test()
    except Exception as error:
        FAILURES.append(test.__name__)
        print(f"FAIL  {test.__name__}: {error}", flush=True)
sys.exit(1 if FAILURES else 0)
