"""The steps: one module a stage with `run(job) -> Outcome`, and `fingerprint(job) -> str` where something outside decides the outputs."""
