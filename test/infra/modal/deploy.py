"""Runs the real `modal` command against a server that records its requests and prints them as JSON; with `serve`, the server
alone, which prints its address, then every call as a line of JSON.

The server speaks Modal's own protocol through the package's own stubs: what the client refuses to send, it refuses here as well.
"""

import asyncio
import base64
import json
import os
import sys
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict
from grpclib.server import Server, Stream
from modal_proto import api_grpc, api_pb2

ROOT = Path(__file__).resolve().parent.parent.parent.parent
calls: list[tuple[str, dict]] = []
# The client reads only its expiry.
TOKEN = ".".join(
    base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, {"exp": 4102444800}, "x")
)
serving = sys.argv[1:] == ["serve"]


def answers(request):
    """The replies that the client requires to continue."""
    name = type(request).__name__.removesuffix("Request")
    if name == "ClientHello":
        return api_pb2.ClientHelloResponse(image_builder_version="2025.06")
    if name == "AppCreate":
        return api_pb2.AppCreateResponse(app_id="ap-1")
    if name == "AppGetLayout":
        return api_pb2.AppGetLayoutResponse(app_layout=api_pb2.AppLayout())
    if name == "VolumeGetOrCreate":
        return api_pb2.VolumeGetOrCreateResponse(volume_id="vo-1", metadata=api_pb2.VolumeMetadata(name=request.deployment_name))
    if name == "SecretGetOrCreate":
        return api_pb2.SecretGetOrCreateResponse(secret_id="st-1")
    if name == "EnvironmentGetOrCreate":
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id="en-1",
            metadata=api_pb2.EnvironmentMetadata(
                name="main", settings=api_pb2.EnvironmentSettings(image_builder_version="2025.06")
            ),
        )
    if name == "MountPutFile":
        return api_pb2.MountPutFileResponse(exists=True)
    if name == "MountGetOrCreate":
        return api_pb2.MountGetOrCreateResponse(mount_id="mo-1")
    if name == "ImageGetOrCreate":
        done = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        return api_pb2.ImageGetOrCreateResponse(image_id="im-1", result=done)
    if name == "FunctionPrecreate":
        return api_pb2.FunctionPrecreateResponse(function_id="fu-1")
    if name == "FunctionCreate":
        return api_pb2.FunctionCreateResponse(
            function_id="fu-1",
            function_data=request.function_data,
            handle_metadata=api_pb2.FunctionHandleMetadata(function_name="Gpu"),
        )
    if name == "FunctionGet":
        return api_pb2.FunctionGetResponse(
            function_id="fu-1", handle_metadata=api_pb2.FunctionHandleMetadata(function_name=request.object_tag, app_id="ap-1")
        )
    if name == "FunctionGetCurrentStats":
        return api_pb2.FunctionStats(backlog=3, num_total_tasks=2)
    if name == "FunctionGetTimeRangeStats":
        return api_pb2.FunctionGetTimeRangeStatsResponse(
            input_success_count=20, input_failure_count=1, container_started_count=4, container_error_count=1
        )
    if name == "AuthTokenGet":
        return api_pb2.AuthTokenGetResponse(token=TOKEN)
    if name == "AppPublish":
        return api_pb2.AppPublishResponse(url="https://modal.test/apps/octet-gpu")
    return None


def handler(name: str, reply_type):
    async def handle(self, stream: Stream):
        request = await stream.recv_message()
        call = (name, MessageToDict(request, preserving_proto_field_name=True))
        calls.append(call)
        if serving:
            print(json.dumps(call), flush=True)
        reply = answers(request) or reply_type()
        await stream.send_message(reply)

    return handle


def service():
    mapping = api_grpc.ModalClientBase.__abstractmethods__
    types = {path.split("/")[-1]: method.reply_type for path, method in probe().items()}
    methods = {name: handler(name, types.get(name, Empty)) for name in mapping}
    return type("Recorder", (api_grpc.ModalClientBase,), methods)()


def probe():
    blank = type("Blank", (api_grpc.ModalClientBase,), {name: None for name in api_grpc.ModalClientBase.__abstractmethods__})
    return blank().__mapping__()


async def main() -> None:
    server = Server([service()])
    await server.start("127.0.0.1", 0)
    port = server._server.sockets[0].getsockname()[1]
    if serving:
        print(json.dumps(f"http://127.0.0.1:{port}"), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        return server.close()
    env = {
        **os.environ,
        "MODAL_SERVER_URL": f"http://127.0.0.1:{port}",
        "MODAL_TOKEN_ID": "ak-test",
        "MODAL_TOKEN_SECRET": "as-test",
        "MODAL_CONFIG_PATH": "/nonexistent/modal.toml",
    }
    command = [sys.executable, "-m", "modal", *sys.argv[1:]]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    server.close()
    print(json.dumps({"code": process.returncode, "output": output.decode(), "calls": calls}))


asyncio.run(main())
