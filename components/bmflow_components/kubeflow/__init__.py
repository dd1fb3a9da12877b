"""Kubeflow Pipelines: pipelines in the compiled form that its server takes, and a runner of that form for this machine."""
