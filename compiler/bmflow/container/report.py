"""What a bmodel holds, as text: the short form, the whole description, and where each weight lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import prod

from bmflow.container.edit import shape_of
from bmflow.container.flat import Table

_TYPE_NAMES = ("float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "bfloat16", "int4", "uint4")
_OLD_CHIP = "BM1684"
_OLD_COMMAND_BYTES = 128


def info(model: Table) -> str:
    """The text of `model_tool --info`."""
    lines = [f"bmodel version: {model['type']}.{model['version']}", f"processor: {model['chip']}"]
    lines += [f"device num: {model['device_num']}"] if model["device_num"] > 1 else []
    lines.append(f"create time: {model['time'].strip()}")
    for index, net in enumerate(model["net"]):
        lines += _net_lines(index, net)
    return "\n".join([*lines, "", *_memory_lines(model)])


def _net_lines(index: int, net: Table) -> Iterator[str]:
    stages: Sequence[Table] = net.get("parameter", [])
    dynamic = bool(stages) and bool(stages[0]["is_dynamic"])
    yield "=========================================="
    yield f"net {index}: [{net['name']}]  {'dynamic' if dynamic else 'static'}"
    if net["addr_mode"]:
        yield f"addr mode: {net['addr_mode']}"
    for number, stage in enumerate(stages):
        yield "-------------"
        yield f"stage {number}:" + (f" core num: {stage['core_num']}" if stage["core_num"] > 1 else "")
        if len(stage.get("sub_net", [])) > 1:
            yield f"subnet number: {len(stage['sub_net'])}"
        yield from (f"input: {_port_text(tensor, dynamic)}" for tensor in stage["input_tensor"])
        yield from (f"output: {_port_text(tensor, False)}" for tensor in stage["output_tensor"])


def _port_text(tensor: Table, dynamic: bool) -> str:
    code: int = tensor["data_type"]
    kind = _TYPE_NAMES[code] if code < len(_TYPE_NAMES) else "unknown"
    shape = f"{'max:' if dynamic else ''}[{', '.join(str(dim) for dim in shape_of(tensor))}]"
    return f"{tensor['name']}, {shape}, {kind}, scale: {tensor['scale']:g}, zero_point: {tensor['zero_point']}"


def _memory_lines(model: Table) -> Iterator[str]:
    stages: list[Table] = [stage for net in model["net"] for stage in net.get("parameter", [])]
    weight = sum(_weight_sizes(stages).values())
    instruct = sum(_instruction_bytes(stage, model["chip"]) for stage in stages)
    runtime = max((sum(stage.get("ctx_sizes", [stage["ctx_size"]])) for stage in stages), default=0)
    runtime += max((_staging_bytes(stage) for stage in stages), default=0)
    yield f"device mem size: {weight + instruct + runtime} (weight: {weight}, instruct: {instruct}, runtime: {runtime})"
    host_weight = sum(_host_constants(stage) for stage in stages)
    host_runtime = sum(4 * stage["cpu_mem_size"] for stage in stages)
    yield f"host mem size: {host_weight + host_runtime} (weight: {host_weight}, runtime: {host_runtime})"


def _weight_sizes(stages: Sequence[Table]) -> dict[tuple[bytes, int], int]:
    """Bytes of each distinct weight image; the runtime shares those of one check code and size."""
    images = [stage["coeff_mem"] for stage in stages if "coeff_mem" in stage]
    return {(image.get("check_code", b""), len(image.get("binary_coeff", b""))): len(image.get("binary_coeff", b"")) for image in images}


def _instruction_bytes(stage: Table, chip: str) -> int:
    """Bytes of all streams of a stage, and of the description of dynamic parts."""
    words = sum(part["ir_info_len"] for part in stage.get("stage_ir", [])[:1])
    return 4 * words + sum(_group_bytes(group, chip) for group in _groups(stage))


def _groups(stage: Table) -> list[Table]:
    cores: list[Table] = [core for subnet in stage.get("sub_net", []) for core in subnet.get("core_commands", [])]
    if cores:
        return [group for core in cores for group in core.get("gdma_tiu_commands", [])]
    return stage.get("cmd_group", [])


def _group_bytes(group: Table, chip: str) -> int:
    if chip == _OLD_CHIP:
        return _OLD_COMMAND_BYTES * (group["bdc_num"] + group["gdma_num"])
    return len(group.get("binary_bdc", b"")) + len(group.get("binary_gdma", b""))


def _staging_bytes(stage: Table) -> int:
    """The runtime's buffer for its largest input or output, counted as 32-bit elements."""
    return max((4 * prod(shape_of(tensor)) for tensor in (*stage["input_tensor"], *stage["output_tensor"])), default=0)


def _host_constants(stage: Table) -> int:
    parameters = [parameter for subnet in stage.get("sub_net", []) for parameter in subnet.get("cpu_param", [])]
    return sum(len(constant.get("const_data", b"")) for parameter in parameters for constant in parameter.get("cpu_const", []))


def description(model: Table) -> str:
    """The whole flatbuffer as json; check codes in hexadecimal digits, blobs by start and size."""
    return json.dumps(model, indent=2, ensure_ascii=False, default=lambda code: code.hex())


def weights(model: Table) -> str:
    """Where each weight lies, in bytes from the beginning of its weight image."""
    lines: list[str] = []
    for net in model["net"]:
        for number, stage in enumerate(net.get("parameter", [])):
            coeff: Table = stage.get("coeff_mem", {})
            size = len(coeff.get("binary_coeff", b""))
            lines.append(f"net [{net['name']}] stage {number}: {size} bytes at {coeff.get('address', 0):#x}")
            lines += [
                f"  [{w['offset']:#x}, {w['offset'] + w['size']:#x}) {w['size']} bytes: {w['name']}" for w in coeff.get("location", [])
            ]
    return "\n".join(lines)
