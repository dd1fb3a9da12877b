"""Cutting and joining of files; the rules for stages are the runtime's (format notes, 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import smallest
from bmflow.container import bmodel, edit, image, report
from bmflow.errors import InputError

TIME = "Thu Jan  1 00:00:00 2026\n"
Change = Callable[[Any], None]


def table(name: str = "a", change: Change = lambda stage: None) -> Any:
    """The table of the smallest model under another name, after a change of its stage."""
    model = image.load(bmodel.write(smallest.program(name), TIME))
    change(model["net"][0]["parameter"][0])
    return model


def other_shape(stage: Any) -> None:
    stage["input_tensor"][0]["shape"] = [{"dim": [1, 16, 40, 10]}]


def combined(*models: Any) -> Any:
    return image.load(image.store(edit.combine([(f"file{i}", model) for i, model in enumerate(models)], TIME)))


def test_nets_of_different_names_stand_beside_each_other() -> None:
    model = combined(table("a"), table("b"))
    assert [net["name"] for net in model["net"]] == ["a", "b"]
    assert model["neuron_size"] == 24576


def test_nets_of_one_name_become_stages() -> None:
    model = combined(table("a"), table("b"), table("a", other_shape))
    assert [(net["name"], len(net["parameter"])) for net in model["net"]] == [("a", 2), ("b", 1)]


def test_equal_weights_and_streams_are_stored_once() -> None:
    one, two = image.store(table("a")), image.store(combined(table("a"), table("b")))
    pools = [image.sections(data, "")[1] for data in (one, two)]
    assert len(pools[1]) == len(pools[0])


def test_extracting_what_was_combined_gives_the_parts_back() -> None:
    parts = edit.extract(combined(table("a"), table("b"), table("a", other_shape)))
    assert [part.file_name for part in parts] == ["bm_net0_stage0.bmodel", "bm_net0_stage1.bmodel", "bm_net1_stage0.bmodel"]
    assert image.store(parts[0].model) == image.store(table("a"))
    assert parts[1].model["net"][0]["parameter"] == table("a", other_shape)["net"][0]["parameter"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: None, r"both have inputs of shape \[\[1, 16, 20, 20\]\]"),
        (lambda s: s["input_tensor"][0].update(name="z"), "their inputs differ: x .*; rename|their inputs differ: x"),
        (lambda s: s["output_tensor"][0].update(scale=0.5), "their outputs differ"),
        (lambda s: s["output_tensor"][0].update(zero_point=1), "their outputs differ"),
        (lambda s: (other_shape(s), s.update(n_dynamic=1)), "one has dynamic shapes"),
        (lambda s: (other_shape(s), s.update(sub_net=s["sub_net"] * 2)), "one consists of several subnets"),
    ],
)
def test_nets_that_cannot_be_stages_of_one_are_refused(change: Change, message: str) -> None:
    with pytest.raises(InputError, match=f"file1: net a cannot become a stage of the net of that name: .*({message})"):
        combined(table("a"), table("a", change))


def test_different_address_modes_are_refused() -> None:
    other = table("a", other_shape)
    other["net"][0]["addr_mode"] = 1
    with pytest.raises(InputError, match="place inputs and outputs in different ways"):
        combined(table("a"), other)


def test_files_for_different_processors_are_refused() -> None:
    with pytest.raises(InputError, match="file0 is for BM1684X, file1 is for BM1688"):
        combined(table("a"), {**table("b"), "chip": "BM1688"})


def test_parts_that_only_other_tools_understand_are_kept() -> None:
    def add_host_layer(stage: Any) -> None:
        constant = {"name": "anchors", "const_data": b"\1\2\3", "check_code": b"\4"}
        layer = {"op_type": 7, "binary_param": b"parameters", "cpu_const": [constant], "is_custom": 0}
        host = {
            "subnet_mode": 1,
            "cpu_param": [layer],
            "id": 1,
            "next_subnet_ids": [-1],
            "merge_param": {"output_from": [{"indice": [0, 1]}]},
        }
        switch = {"subnet_mode": 3, "id": 2, "switch_param": {"output_from": [0], "output_branch": [1]}}
        stage["sub_net"] = [*stage["sub_net"], host, switch]
        stage["cmd_group"][0]["reloc_entries"] = [[1, 2, 3], [4, 5, 6]]
        stage["stage_ir"] = [{"ir_info_len": 5, "height_high": 1, "height_low": 2, "width_high": 3, "width_low": 4}]

    model = combined(table("a", add_host_layer), table("b"))
    stage = model["net"][0]["parameter"][0]
    assert stage["sub_net"][1]["cpu_param"][0]["binary_param"] == b"parameters"
    assert stage["sub_net"][1]["cpu_param"][0]["cpu_const"][0] == {"name": "anchors", "const_data": b"\1\2\3", "check_code": b"\4"}
    assert stage["sub_net"][1]["merge_param"] == {"output_from": [{"indice": [0, 1]}]}
    assert stage["sub_net"][2]["switch_param"] == {"output_from": [0], "output_branch": [1]}
    assert stage["cmd_group"][0]["reloc_entries"] == [[1, 2, 3], [4, 5, 6]]
    text = report.info(model)
    assert "subnet number: 3" in text
    assert "host mem size: 3 (weight: 3, runtime: 0)" in text
    assert f"instruct: {2 * 768 + 4 * 5}," in text
