"""Every file of the repository that follows from the list of stages."""

from __future__ import annotations

from bmflow_components import component_readme, component_yaml, contracts, dvc_yaml


def files() -> dict[str, str]:
    """Text by path below the repository's root."""
    found = {"components/README.md": component_readme.overview(), "dvc.yaml": dvc_yaml.dvc_yaml(), "params.yaml": dvc_yaml.params_yaml()}
    for stage in contracts.STAGES:
        found[f"components/{stage.name}/README.md"] = component_readme.readme(stage)
        found[f"components/{stage.name}/component.yaml"] = component_yaml.text(stage)
    return found
