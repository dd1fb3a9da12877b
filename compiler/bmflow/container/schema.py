"""Schema of the flatbuffer inside a bmodel, as data: table name -> field name -> slot and kind.

Kinds: a scalar (`u8 u32 i32 u64 f32`, default 0 unless written after `=`), `string`, a struct (`Binary`, `RelEntry`), a table, or
`[kind]` for a vector of one of them; `!` marks a required field. Slots that are obsolete (Net 1 and 2) are not listed.
Source: bmodel format notes, 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SCALARS: Mapping[str, tuple[str, int]] = {"u8": ("B", 1), "i32": ("i", 4), "u32": ("I", 4), "f32": ("f", 4), "u64": ("Q", 8)}
"""struct format and bytes of each scalar kind."""
STRUCTS: Mapping[str, tuple[str, int, int]] = {"Binary": ("QQ", 16, 8), "RelEntry": ("III", 12, 4)}
"""struct format, bytes and alignment of each struct kind."""

_TABLES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Model": {
        "type": (0, "string!"), "version": (1, "string!"), "time": (2, "string!"), "chip": (3, "string!"), "net": (4, "[Net]!"),
        "neuron_size": (5, "u64"), "kernel_module": (6, "KernelModule"), "device_num": (7, "u32"), "cpuop_module": (8, "CpuopModule"),
        "bmodel_type": (9, "u32"), "lib_backend": (10, "Binary"),
    },
    "Net": {"name": (0, "string!"), "parameter": (3, "[NetParameter]"), "cascade": (4, "Cascade"), "addr_mode": (5, "i32")},
    "NetParameter": {
        "input_tensor": (0, "[Tensor]!"), "output_tensor": (1, "[Tensor]!"), "ctx_addr": (2, "u64"), "ctx_size": (3, "u64"),
        "coeff_mem": (4, "CoeffMem"), "is_dynamic": (5, "i32"), "n_dynamic": (6, "i32"), "h_w_dynamic": (7, "i32"),
        "cmd_group": (8, "[CmdGroup]"), "net_profile": (9, "Binary"), "stage_ir": (10, "[StageIR]"), "binary_ir": (11, "Binary"),
        "sub_net": (12, "[SubNet]"), "cpu_mem_size": (13, "u32"), "ctx_sizes": (14, "[u64]"), "net_stat": (15, "Binary"),
        "core_num": (16, "u32"), "io_addr": (17, "u64"), "io_size": (18, "u64"), "tensor_loc": (19, "Binary"),
        "dynamic_ctx_addr": (20, "u64"), "dynamic_coeff_offset": (21, "u64"), "dynamic_combined_coeff_offset": (22, "u64"),
    },
    "SubNet": {
        "subnet_mode": (0, "i32"), "cmd_group": (1, "[CmdGroup]"), "cpu_param": (2, "[CpuParam]"), "input_tensor": (3, "[Tensor]"),
        "output_tensor": (4, "[Tensor]"), "is_dynamic": (5, "i32"), "ir_offset": (6, "u32"), "ir_len": (7, "u32"),
        "n_dynamic": (8, "i32"), "h_w_dynamic": (9, "i32"), "id": (10, "i32=-1"), "next_subnet_ids": (11, "[i32]"),
        "merge_param": (12, "MergeParam"), "switch_param": (13, "SwitchParam"), "core_commands": (14, "[CoreCommands]"),
        "run_core": (15, "u32"),
    },
    "CmdGroup": {
        "bdc_num": (0, "u32"), "gdma_num": (1, "u32"), "binary_bdc": (2, "Binary"), "binary_gdma": (3, "Binary"),
        "bdc_cmd_byte": (4, "u32"), "gdma_cmd_byte": (5, "u32"), "reloc_entries": (6, "[RelEntry]"),
    },
    "CoreCommands": {
        "gdma_tiu_commands": (0, "[CmdGroup]"), "sdma_commands": (1, "[Binary]"), "hau_commands": (2, "[Binary]"),
        "cdma_commands": (3, "[Binary]"),
    },
    "StageIR": {
        "ir_info_len": (0, "u32"), "height_high": (1, "i32"), "height_low": (2, "i32"), "width_high": (3, "i32"), "width_low": (4, "i32"),
    },
    "CoeffMem": {
        "address": (0, "u64"), "check_code": (1, "[u8]"), "binary_coeff": (2, "Binary"), "location": (3, "[Location]"),
        "encrypt_mode": (4, "i32"), "decrypt_size": (5, "u64"),
    },
    "Location": {"name": (0, "string!"), "offset": (1, "u64"), "size": (2, "u64")},
    "Tensor": {
        "name": (0, "string!"), "data_type": (1, "u32"), "gmem_stmode": (2, "i32"), "device_addr": (3, "u64"), "size": (4, "u64"),
        "shape": (5, "[Shape]"), "mem_type": (6, "u32"), "scale": (7, "f32=1.0"), "cpu_addr": (8, "u32"), "pad_h": (9, "u32"),
        "zero_point": (10, "i32"), "hidden": (11, "i32"), "index": (12, "i32"), "relentry": (13, "RelEntry"),
    },
    "Shape": {"dim": (0, "[u64]")},
    "CpuParam": {"op_type": (0, "i32"), "binary_param": (1, "Binary"), "cpu_const": (2, "[CpuConst]"), "is_custom": (3, "i32")},
    "CpuConst": {"name": (0, "string"), "const_data": (1, "Binary"), "check_code": (2, "[u8]")},
    "MergeParam": {"output_from": (0, "[OutputFrom]")},
    "OutputFrom": {"indice": (0, "[i32]")},
    "SwitchParam": {"output_from": (0, "[i32]"), "output_branch": (1, "[i32]")},
    "KernelModule": {"file_name": (0, "string!"), "binary": (1, "Binary!"), "mode": (2, "i32")},
    "CpuopModule": {"file_name": (0, "string!"), "binary": (1, "Binary!")},
    "Cascade": {"device_id": (0, "u32"), "step": (1, "u32"), "main_name": (2, "string")},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SlotField:
    """One field of a table. `kind` is a scalar, `string`, a struct or a table; `vector` of it or a single one."""

    name: str
    slot: int
    kind: str
    vector: bool
    required: bool
    default: float


def _field(name: str, slot: int, text: str) -> SlotField:
    text, _, default = text.partition("=")
    bare = text.rstrip("!").strip("[]")
    number = float(default or 0) if bare == "f32" else int(default or 0)
    return SlotField(name, slot, bare, text.startswith("["), text.endswith("!"), number)


SCHEMA: Mapping[str, tuple[SlotField, ...]] = {
    table: tuple(_field(name, slot, kind) for name, (slot, kind) in fields.items()) for table, fields in _TABLES.items()
}
"""Fields of each table, by slot."""
