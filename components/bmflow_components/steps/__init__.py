"""The steps: one module a stage with `run(job) -> Outcome`, and `fingerprint(job) -> str` in those that the list marks `outside`."""
