"""Times FP8 operator calls on the device, for `npm run bench -- kernels`, `profile` and `gpu --short`.

    python infra/bench/operators/time_operators.py < CALLS

CALLS is JSON: `library`, the output of gpu-fn/kernels/build; `header`, the path of onnxruntime_c_api.h; and `calls`, as in calls.ts.
Prints a line of JSON for each call: `microseconds` or `error`. The operators are called without onnxruntime: this file implements the
functions of its C API that they use. Requires PyTorch.
"""
import ctypes
import json
import re
import statistics
import sys
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path

import torch

CALLS, REPLAYS = 20, 9
DTYPES = {"float32": torch.float32, "float16": torch.float16, "float8e4m3fn": torch.float8_e4m3fn, "uint8": torch.uint8}


def functions_of(header: str, struct: str) -> list[str]:
    """Names of the function pointers of a struct in onnxruntime's header, in order."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.S)
    body = re.search(rf"\nstruct {struct} {{(.*?)\n}};", text, re.S)[1]
    members = re.findall(r"ORT_API2_STATUS\(\s*(\w+)|ORT_CLASS_RELEASE\((\w+)\)|\(ORT_API_CALL\s*\*\s*(\w+)\)", body)
    return [function or pointer or f"Release{released}" for function, released, pointer in members]


def custom_op(header: str) -> type[ctypes.Structure]:
    """OrtCustomOp."""
    fields = [("version", c_uint32)] + [(name, c_void_p) for name in functions_of(header, "OrtCustomOp")]
    return type("OrtCustomOp", (ctypes.Structure,), {"_fields_": fields})


class ApiBase(ctypes.Structure):
    _fields_ = [("getApi", c_void_p), ("getVersion", c_void_p)]


class Host:
    """Minimal onnxruntime C API for one operator. Value handles are integers: 1 + input index, or OUTPUT + output index."""

    OUTPUT, FAILED = 1000, 1
    Api = CFUNCTYPE(c_void_p, c_uint32)

    def __init__(self, library: str, header: str):
        text = Path(header).read_text()
        indexes = {name: index for index, name in enumerate(functions_of(text, "OrtApi"))}
        self.CustomOp = custom_op(text)
        self.ops, self.inputs, self.outputs, self.attributes, self.message = {}, [], [], {}, ""
        self.table = (c_void_p * len(indexes))()
        self.kept = []
        for name, arguments, function in self.functions():
            callback = CFUNCTYPE(c_void_p, *arguments)(function)
            self.kept.append(callback)
            self.table[indexes[name]] = ctypes.cast(callback, c_void_p)
        self.api = ctypes.addressof(self.table)
        get_api = self.Api(lambda version: self.api)
        self.kept.append(get_api)
        self.library = ctypes.CDLL(library)
        register = self.library.RegisterCustomOps
        register.restype, register.argtypes = c_void_p, [c_void_p, c_void_p]
        base = ApiBase(ctypes.cast(get_api, c_void_p), None)
        self.check(register(1, ctypes.byref(base)))

    def check(self, status):
        if status:
            raise RuntimeError(self.message)

    def functions(self):
        def store(pointer, value):
            pointer[0] = value

        def tensor(value):
            return self.outputs[value - self.OUTPUT] if value >= self.OUTPUT else self.inputs[value - 1]

        def create_status(code, message):
            self.message = message.decode()
            return self.FAILED

        def error_message(status):
            self.text = ctypes.create_string_buffer(self.message.encode())
            return ctypes.addressof(self.text)

        def add(domain, op):
            name = CFUNCTYPE(c_char_p, c_void_p)(self.CustomOp.from_address(op).GetName)(op).decode()
            self.ops[name] = op

        def get_input(context, index, out):
            given = index < len(self.inputs) and self.inputs[index] is not None
            store(out, 1 + index if given else None)

        def get_output(context, index, dims, rank, out):
            given = index < len(self.outputs) and self.outputs[index] is not None
            if given and [dims[i] for i in range(rank)] != list(self.outputs[index].shape):
                self.message = f"output {index} has the shape {[dims[i] for i in range(rank)]}"
                return self.FAILED
            store(out, self.OUTPUT + index if given else None)

        def dimensions(shape, out, rank):
            for i, size in enumerate(tensor(shape).shape):
                out[i] = size

        def attribute(info, name, out):
            value = self.attributes.get(name.decode())
            if value is None:
                return self.FAILED
            store(out, value)

        def attributes(info, name, out, count):
            value = self.attributes.get(name.decode())
            if value is None:
                return self.FAILED
            store(count, len(value))
            for i, each in enumerate(value if out else []):
                out[i] = each

        pointer, index = POINTER(c_void_p), c_size_t
        return [
            ("CreateStatus", [c_int, c_char_p], create_status),
            ("ReleaseStatus", [c_void_p], lambda status: None),
            ("GetErrorMessage", [c_void_p], error_message),
            ("CreateCustomOpDomain", [c_char_p, pointer], lambda name, out: store(out, 1)),
            ("CustomOpDomain_Add", [c_void_p, c_void_p], add),
            ("AddCustomOpDomain", [c_void_p, c_void_p], lambda options, domain: None),
            ("KernelContext_GetInput", [c_void_p, index, pointer], get_input),
            ("KernelContext_GetOutput", [c_void_p, index, POINTER(c_int64), index, pointer], get_output),
            ("GetTensorTypeAndShape", [c_void_p, pointer], lambda value, out: store(out, value)),
            ("ReleaseTensorTypeAndShapeInfo", [c_void_p], lambda shape: None),
            ("GetDimensionsCount", [c_void_p, POINTER(index)], lambda shape, out: store(out, tensor(shape).dim())),
            ("GetDimensions", [c_void_p, POINTER(c_int64), index], dimensions),
            ("GetTensorMutableData", [c_void_p, pointer], lambda value, out: store(out, tensor(value).data_ptr())),
            ("KernelContext_GetGPUComputeStream", [c_void_p, pointer], lambda context, out: store(out, self.stream())),
            ("KernelInfoGetAttribute_float", [c_void_p, c_char_p, POINTER(c_float)], attribute),
            ("KernelInfoGetAttribute_int64", [c_void_p, c_char_p, POINTER(c_int64)], attribute),
            ("KernelInfoGetAttributeArray_int64", [c_void_p, c_char_p, POINTER(c_int64), POINTER(index)], attributes),
        ]

    @staticmethod
    def stream():
        return torch.cuda.current_stream().cuda_stream

    def kernel(self, name, inputs, outputs, attributes):
        """Returns a function that runs an operator on device tensors. Absent optional tensors are None."""
        op = self.CustomOp.from_address(self.ops[name])
        state = c_void_p()
        self.attributes = attributes
        create = CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_void_p))(op.CreateKernelV2)
        self.check(create(self.ops[name], self.api, None, ctypes.byref(state)))
        compute = CFUNCTYPE(c_void_p, c_void_p, c_void_p)(op.KernelComputeV2)

        def run():
            self.inputs, self.outputs = inputs, outputs
            self.check(compute(state, None))

        return run


def microseconds(run):
    """Median device time of one call. Replays of a CUDA graph exclude host overhead."""
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            run()
    times = []
    for _ in range(REPLAYS + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / CALLS)
    return statistics.median(times[1:])


def draw(given):
    """Random tensor of the given type and shape. float32 values are positive, because some are scales."""
    if given is None:
        return None
    shape, dtype = given["shape"], DTYPES[given["dtype"]]
    if dtype == torch.uint8:
        return torch.zeros(shape, device="cuda", dtype=dtype)
    values = torch.randn(shape, device="cuda")
    if dtype == torch.float8_e4m3fn:
        values = values * 100
    if dtype == torch.float32:
        values = values.abs() + 0.5
    return values.to(dtype)


def prepare(host, call):
    """Returns a function that runs the call, and its output tensors."""
    inputs = [draw(each) for each in call["inputs"]]
    if "after" in call:
        run, results = prepare(host, call["after"])
        run()
        inputs[: len(results)] = results
    outputs = [draw(each) for each in call["outputs"]]
    return host.kernel(call["op"], inputs, outputs, call["attributes"]), outputs


def main():
    given = json.load(sys.stdin)
    host = Host(given["library"], given["header"])
    for call in given["calls"]:
        try:
            run, _ = prepare(host, call)
            result = {"microseconds": microseconds(run)}
        except Exception as error:
            result = {"error": (str(error).splitlines() or [type(error).__name__])[0]}
        print(json.dumps(result), flush=True)


main()
