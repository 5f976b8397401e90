"""Measures the time of each FP8 operator at the sizes of Large, and its share of the chip's peak. Run by `npm run bench -- kernels`.

    python infra/bench/kernel_rates.py LIBRARY

LIBRARY is the output of gpu-fn/kernels/build. The operators are called without onnxruntime: this file implements the functions of its C API
that they use. Needs PyTorch.
"""
import ctypes
import re
import statistics
import sys
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path

import torch

ORT_HEADER = Path(__file__).parents[2] / "gpu-fn/native/vendor/onnxruntime/onnxruntime_c_api.h"
# Dense TFLOP/s of FP8 and of 16 bits, and TB/s, by the vendor's data sheets.
PEAKS = {"H200": (1979, 989, 4.8), "H100": (1979, 989, 3.35), "L40S": (733, 362, 0.864), "B200": (4500, 2250, 8.0)}
IMAGE, TEXT, WIDTH, HIDDEN, DEPTH, TILE = 4096, 333, 2432, 9728, 64, 128
HEADS = WIDTH // DEPTH
CALLS, REPLAYS = 20, 9


def functions_of(struct: str) -> list[str]:
    """The names of the function pointers of a struct in onnxruntime's header, in order."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", ORT_HEADER.read_text(), flags=re.S)
    body = re.search(rf"\nstruct {struct} {{(.*?)\n}};", text, re.S)[1]
    members = re.findall(r"ORT_API2_STATUS\(\s*(\w+)|ORT_CLASS_RELEASE\((\w+)\)|\(ORT_API_CALL\s*\*\s*(\w+)\)", body)
    return [function or pointer or f"Release{released}" for function, released, pointer in members]


class CustomOp(ctypes.Structure):
    """OrtCustomOp."""

    _fields_ = [("version", c_uint32)] + [(name, c_void_p) for name in functions_of("OrtCustomOp")]


class ApiBase(ctypes.Structure):
    _fields_ = [("getApi", c_void_p), ("getVersion", c_void_p)]


class Host:
    """onnxruntime's C API for one operator. A value is a number: 1 + the index of an input, or OUTPUT + the index of an output."""

    OUTPUT, FAILED = 1000, 1
    Api = CFUNCTYPE(c_void_p, c_uint32)

    def __init__(self, library: str):
        indexes = {name: index for index, name in enumerate(functions_of("OrtApi"))}
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
            name = CFUNCTYPE(c_char_p, c_void_p)(CustomOp.from_address(op).GetName)(op).decode()
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

    def kernel(self, name, inputs, outputs, **attributes):
        """A function that runs an operator on tensors of the device; None is an absent optional tensor."""
        op = CustomOp.from_address(self.ops[name])
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
    """Time of one call on the device, without the host: calls are replayed as a CUDA graph."""
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


def halves(*shape):
    return torch.randn(shape, device="cuda").half()


def floats(*shape):
    return torch.randn(shape, device="cuda")


def codes(*shape):
    return (torch.randn(shape, device="cuda") * 100).to(torch.float8_e4m3fn)


def raw(*shape):
    return torch.zeros(shape, device="cuda", dtype=torch.uint8)


def modulate(host, tokens):
    stream, branch, modulation = halves(1, tokens, WIDTH), halves(1, tokens, WIDTH), floats(1, 3 * WIDTH)
    outputs = [halves(1, tokens, WIDTH), codes(1, tokens, WIDTH), floats(1, tokens)]
    run = host.kernel(
        "ModulateQuantize", [stream, modulation, branch], outputs,
        shifts=[0], scales=[WIDTH], gates=[2 * WIDTH], branch_factor=16.0, epsilon=1e-6,
    )
    return run, 7 * tokens * WIDTH, 0, 0


def gelu(host, tokens):
    run = host.kernel("GeluQuantize", [halves(1, tokens, HIDDEN)], [codes(1, tokens, HIDDEN), floats(1, tokens)], factor=16.0)
    return run, 3 * tokens * HIDDEN, 0, 0


def parts(host):
    like = codes(1, IMAGE, 16)
    outputs = [codes(1, IMAGE, WIDTH), floats(1, IMAGE), codes(1, TEXT, WIDTH), floats(1, TEXT)]
    return host.kernel("QuantizeParts", [halves(1, IMAGE + TEXT, WIDTH), like], outputs), 3 * (IMAGE + TEXT) * WIDTH, 0, 0


def linear(host, m, k, n):
    inputs = [codes(1, m, k), floats(1, m).abs(), codes(n, k), floats(n).abs(), halves(n)]
    return host.kernel("Linear", inputs, [halves(1, m, n)]), m * k + n * k + 2 * m * n, 2 * m * n * k, 0


def heads(host):
    tokens = IMAGE + TEXT
    tiles = -(-tokens // TILE)
    image, text, norms = halves(1, IMAGE, 3 * WIDTH), halves(1, TEXT, 3 * WIDTH), [floats(DEPTH).abs() + 0.5 for _ in range(4)]
    joined = [
        raw(1, HEADS, tiles * TILE, DEPTH),
        raw(1, HEADS, tiles, TILE * DEPTH),
        raw(1, HEADS, tiles, TILE * DEPTH * 2),
        floats(1),
    ]
    join = host.kernel("QkNormQuantize", [image, text, *norms], joined, epsilon=1e-6)
    join()
    attend = host.kernel("Attention", [*joined, image, text], [halves(1, tokens, WIDTH)])
    product = 2 * tokens * tokens * WIDTH
    return (join, 10 * tokens * WIDTH, 0, 0), (attend, 6 * tokens * WIDTH, product, product)


def main():
    host = Host(sys.argv[1])
    name = torch.cuda.get_device_name()
    peaks = next((peaks for part, peaks in PEAKS.items() if part in name), None)
    join, attend = heads(host)
    cases = {
        f"ModulateQuantize, image [{IMAGE}, {WIDTH}]": modulate(host, IMAGE),
        f"ModulateQuantize, text [{TEXT}, {WIDTH}]": modulate(host, TEXT),
        **{
            f"Linear {layer}, {stream} [{m}, {k}] · [{n}, {k}]": linear(host, m, k, n)
            for layer, k, n in (("qkv", WIDTH, 3 * WIDTH), ("proj", WIDTH, WIDTH), ("fc1", WIDTH, HIDDEN), ("fc2", HIDDEN, WIDTH))
            for stream, m in (("image", IMAGE), ("text", TEXT))
        },
        f"GeluQuantize, image [{IMAGE}, {HIDDEN}]": gelu(host, IMAGE),
        f"GeluQuantize, text [{TEXT}, {HIDDEN}]": gelu(host, TEXT),
        f"QkNormQuantize [{IMAGE} + {TEXT}, {HEADS} · {DEPTH}]": join,
        f"Attention [{IMAGE} + {TEXT}, {HEADS} · {DEPTH}]": attend,
        f"QuantizeParts [{IMAGE} + {TEXT}, {WIDTH}]": parts(host),
    }
    print(f"rates on {name}, one call, with the buffers of the previous call in the cache:")
    for what, (run, moved, narrow, wide) in cases.items():
        time = microseconds(run)
        rate = f"{(narrow + wide) / time / 1e6:.0f} TFLOP/s" if narrow + wide else f"{moved / time / 1e6:.2f} TB/s"
        # Time at the chip's peaks: of the products, or of reading each input and writing each output once.
        ideal = peaks and max(narrow / peaks[0] / 1e6 + wide / peaks[1] / 1e6, moved / peaks[2] / 1e6)
        share = f", {ideal / time:.0%} of the peak" if ideal else ""
        print(f"  {what}: {time:.1f} µs, {rate}{share}", flush=True)


main()
