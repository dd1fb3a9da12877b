"""Pipelines compiled for Kubeflow: read by its own messages, complete, connected, without secrets, the same every time."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bmflow.errors import InputError
from bmflow_components import contracts
from bmflow_components.cli import main
from bmflow_components.kubeflow import ir
from bmflow_components.kubeflow.cluster import Cluster
from bmflow_components.pipelines import Pipeline, Runs
from bmflow_components.ports import RESULT

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = Cluster(
    "registry.example.com/team", "shared", "/shared", "keys", {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, {"disk": "fast"},
    ("npu=true:NoSchedule", "spot"), 3,
)  # fmt: skip
EACH = pytest.mark.parametrize("pipeline", contracts.PIPELINES, ids=lambda item: item.name)
LOOPS = pytest.mark.parametrize("name", ["compile_and_deploy", "retrain_and_deploy"])


def executors(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """The container of every executor."""
    spec, _ = ir.compiled(pipeline, CLUSTER)
    return {name: item["container"] for name, item in spec["deploymentSpec"]["executors"].items()}


def graphs(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every graph with the definitions of its inputs."""
    yield "root", spec["root"]
    yield from ((name, component) for name, component in spec["components"].items() if "dag" in component)


@EACH
def test_both_documents_are_read_as_kubeflows_own_messages(pipeline: Pipeline) -> None:
    """An unknown field, or one of another type, is refused by protobuf; kfp itself loads the file."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; install the extra `kfp`")
    kfp = pytest.importorskip("kfp", reason="kfp is not installed; install the extra `kfp`")
    from google.protobuf import json_format
    from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

    text = ir.text(pipeline, CLUSTER)
    spec, platform = yaml.safe_load_all(text)
    message = json_format.ParseDict(spec, PipelineSpec())
    assert message.pipeline_info.name == pipeline.name.replace("_", "-")
    configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(configs) == set(spec["deploymentSpec"]["executors"])
    for config in configs.values():
        assert json_format.ParseDict(config, KubernetesExecutorConfig()).pvc_mount[0].mount_path == "/shared"
    loaded = kfp.components.load_component_from_text(text)
    if len(pipeline.nodes) == 1:  # kfp takes it for the component itself
        return
    assert set(loaded.component_spec.inputs or {}) == set(spec["root"]["inputDefinitions"].get("parameters", {}))


@EACH
def test_every_port_and_parameter_of_every_stage_is_there(pipeline: Pipeline) -> None:
    """On the command line of its container, and among the outputs of its component."""
    spec, _ = ir.compiled(pipeline, CLUSTER)
    found = executors(pipeline)
    for node in pipeline.nodes:
        stage = contracts.stage(node.stage)
        mine = {
            name: item for name, item in found.items() if name.removeprefix("exec-").removesuffix("-mixed") == node.name.replace("_", "-")
        }
        assert mine, node.name
        for name, container in mine.items():
            args = container["args"]
            assert container["command"] == ["python", "-m", "bmflow_components", stage.name]
            assert container["image"] == f"registry.example.com/team/bmflow/{stage.image.value}:0.1.0"
            assert {f"--{param.name}" for param in stage.params} | {f"--out-{port.name}" for port in stage.outputs} <= set(args)
            given = {word.removeprefix("--in-") for word in args if word.startswith("--in-")}
            given |= {word.split("=")[0] for before, word in itertools.pairwise(args) if before == "--find"}
            assert given == set(node.inputs) - ({"qtable"} if stage.name == "deploy" and not name.endswith("-mixed") else set())
            outputs = spec["components"][name.replace("exec-", "comp-")]["outputDefinitions"]["artifacts"]
            assert list(outputs) == [*(port.name for port in stage.outputs), RESULT.name]
            assert all(item["artifactType"]["schemaTitle"].startswith("system.") for item in outputs.values())
            assert (container["resources"]["resourceCpuLimit"], container["resources"]["resourceMemoryRequest"]) == (
                stage.resources.cpu, stage.resources.memory,
            )  # fmt: skip


@EACH
def test_everything_that_a_task_takes_is_given_by_a_task_beside_it_or_from_around(pipeline: Pipeline) -> None:
    """With the type that is expected, and after the task that makes it."""
    spec, _ = ir.compiled(pipeline, CLUSTER)
    for name, graph in graphs(spec):
        tasks, around = graph["dag"]["tasks"], graph.get("inputDefinitions", {})
        for task in tasks.values():
            wanted = spec["components"][task["componentRef"]["name"]].get("inputDefinitions", {})
            given = task.get("inputs", {})
            own = {task["parameterIterator"]["itemInput"]} if "parameterIterator" in task else set()
            assert set(given.get("parameters", {})) | own == set(wanted.get("parameters", {})), (name, task["taskInfo"])
            assert set(given.get("artifacts", {})) == set(wanted.get("artifacts", {}))
            for key, source in given.get("parameters", {}).items():
                if outer := source.get("componentInputParameter"):
                    assert around["parameters"][outer]["parameterType"] == wanted["parameters"][key]["parameterType"]
            for key, source in given.get("artifacts", {}).items():
                if beside := source.get("taskOutputArtifact"):
                    assert beside["producerTask"] in task["dependentTasks"]
                    maker = spec["components"][tasks[beside["producerTask"]]["componentRef"]["name"]]
                    made = maker["outputDefinitions"]["artifacts"][beside["outputArtifactKey"]]
                else:
                    made = around["artifacts"][source["componentInputArtifact"]]
                assert made["artifactType"] == wanted["artifacts"][key]["artifactType"]


@LOOPS
def test_loops_conditions_and_the_exit_handler_are_where_the_graph_has_them(name: str) -> None:
    """Processor outside, number type inside; the search for MIXED alone; the report in any case."""
    spec, _ = ir.compiled(contracts.pipeline(name), CLUSTER)
    root = spec["root"]["dag"]["tasks"]
    assert set(root) == {"exit-handler", "report-of-the-run"}
    assert root["report-of-the-run"]["dependentTasks"] == ["exit-handler"]
    assert root["report-of-the-run"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    body = spec["components"]["comp-exit-handler"]["dag"]["tasks"]
    loop = body["for-each-processor"]
    assert loop["parameterIterator"] == {"itemInput": "processor", "items": {"inputParameter": "processors"}}
    assert loop["iteratorPolicy"] == {"parallelismLimit": 3}
    assert {"transform", "calibrate", "evaluate-float"} <= set(loop["dependentTasks"])
    inner = spec["components"]["comp-for-each-processor"]["dag"]["tasks"]
    assert set(inner) == {"fetch", "evaluate-champion", "for-each-precision", "gate", "report", "register"}
    assert inner["for-each-precision"]["parameterIterator"]["items"] == {"inputParameter": "precisions"}
    assert set(inner["gate"]["dependentTasks"]) == {"for-each-precision", "evaluate-champion"}
    assert set(inner["register"]["dependentTasks"]) == {"for-each-precision", "gate", "report"}
    cases = spec["components"]["comp-branches"]["dag"]["tasks"]
    assert {task["triggerPolicy"]["condition"] for task in cases.values()} == {
        "inputs.parameter_values['quantize'] == 'MIXED'", "!(inputs.parameter_values['quantize'] == 'MIXED')",
    }  # fmt: skip
    assert list(spec["components"]["comp-only-mixed"]["dag"]["tasks"]) == ["qtable", "deploy-mixed", "evaluate-mixed"]
    assert list(spec["components"]["comp-not-mixed"]["dag"]["tasks"]) == ["deploy", "evaluate"]
    for node in contracts.pipeline(name).nodes:
        task = {**body, **inner}.get(node.name.replace("_", "-"))
        if task:
            assert ("triggerPolicy" in task) == (node.runs is not Runs.ALL), node.name


@LOOPS
def test_settings_become_parameters_with_their_defaults(name: str) -> None:
    """Every setting, file and axis of the graph."""
    pipeline = contracts.pipeline(name)
    found = ir.parameters(pipeline)
    assert set(found) == {setting.name for setting in pipeline.settings()} | {port.name for port in pipeline.inputs} | {
        "processors",
        "precisions",
    }
    assert found["transform_pixel_format"]["defaultValue"] == "rgb"
    assert (found["calibrate_bins"]["defaultValue"], found["calibrate_bins"]["parameterType"]) == (2048.0, "NUMBER_INTEGER")
    assert (found["register_promote"]["defaultValue"], found["register_promote"]["parameterType"]) == (True, "BOOLEAN")
    assert [name for name, item in found.items() if not item.get("isOptional")] == (["model"] if name == "compile_and_deploy" else [])


@LOOPS
def test_the_cluster_is_asked_for_claim_nodes_and_limits_of_each_stage(name: str) -> None:
    _, platform = ir.compiled(contracts.pipeline(name), CLUSTER)
    for label, config in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
        stage = contracts.stage(config["podMetadata"]["labels"]["bmflow/stage"])
        assert label.startswith("exec-")
        assert config["pvcMount"][0] | {"pvcNameParameter": None} == {
            "constant": "shared",
            "mountPath": "/shared",
            "pvcNameParameter": None,
        }
        assert config["activeDeadlineSeconds"] == str(stage.resources.timeout_s)
        assert config["nodeSelector"] == {"labels": {"disk": "fast"}}
        assert config["tolerations"] == [
            {"key": "npu", "operator": "Equal", "value": "true", "effect": "NoSchedule"}, {"key": "spot", "operator": "Exists"},
        ]  # fmt: skip
        keys = [key["envVar"] for secret in config.get("secretAsEnv", ()) for key in secret["keyToEnv"]]
        assert keys == list(stage.secrets)
        assert all(secret["optional"] and secret["secretName"] == "keys" for secret in config.get("secretAsEnv", ()))


def test_secrets_never_stand_in_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of this machine, nor by --env."""
    names = sorted({name for stage in contracts.STAGES for name in stage.secrets})
    for name in names:
        monkeypatch.setenv(name, "s3cr3t-value")
    for pipeline in contracts.PIPELINES:
        assert "s3cr3t" not in ir.text(pipeline, CLUSTER)
        for container in executors(pipeline).values():
            assert not {item["name"] for item in container["env"]} & set(names)
    with pytest.raises(InputError, match=r"--env MLFLOW_TRACKING_TOKEN: this is a secret, which must not stand in a pipeline"):
        Cluster(env={"MLFLOW_TRACKING_TOKEN": "x"})
    with pytest.raises(InputError, match="an address with a password in it would stand in the pipeline"):
        Cluster(env={"MLFLOW_TRACKING_URI": "https://me:pass@host"})


def test_work_that_may_be_kept_is_kept_by_content_and_no_stage_that_looks_outside_is() -> None:
    """Kubeflow's own cache goes by the names of artifacts, so it is off."""
    spec, _ = ir.compiled(contracts.pipeline("retrain_and_deploy"), CLUSTER)
    for _, graph in graphs(spec):
        for task in graph["dag"]["tasks"].values():
            assert task.get("cachingOptions", {}) == {}
    for container in executors(contracts.pipeline("retrain_and_deploy")).values():
        volatile = contracts.stage(container["command"][-1]).volatile
        assert ("--cache" in container["args"]) != volatile
        assert ("--tries" in container["args"]) == bool(contracts.stage(container["command"][-1]).retries)


def test_the_file_is_the_same_whatever_the_order_of_sets(tmp_path: Path) -> None:
    """The command line in two processes with different hashes of texts."""
    texts: list[str] = []
    path = os.pathsep.join([str(ROOT / "components"), str(ROOT / "compiler")])
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.yaml"
        words = ["-m", "bmflow_components.cli", "compile", "kubeflow", "retrain_and_deploy", "-o", str(file), "--claim", "mine"]
        subprocess.run(
            [sys.executable, *words], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}, check=True, capture_output=True
        )
        texts.append(file.read_text())
    assert texts[0] == texts[1] == ir.text(contracts.pipeline("retrain_and_deploy"), Cluster(claim="mine"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--toleration", "a=b:Sometimes"], "--toleration a=b:Sometimes: expected key, key:effect or key=value:effect"),
        (["--node-selector", "fast"], "--node-selector fast: expected NAME=VALUE"),
        (["--mount", "runs"], "--mount runs: expected an absolute path"),
        (["--claim", ""], "--claim: expected the name of a volume claim"),
        (["--env", "HOME=/"], "--env HOME: no stage takes it"),
    ],
)
def test_settings_that_could_not_work_are_refused(words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pipeline.yaml"
    assert main(["compile", "kubeflow", "compile_and_deploy", "-o", str(file), *words]) == 2
    assert text in capsys.readouterr().err
    assert not file.exists()


def test_json_of_the_spec_is_small_enough_for_a_workflow() -> None:
    """Kubernetes keeps an object below 1.5 MB, of which an embedded pipeline should take a small part."""
    for pipeline in contracts.PIPELINES:
        assert len(json.dumps(ir.compiled(pipeline, CLUSTER))) < 200_000
