"""What the pipeline leaves behind in MLflow: runs, bmodels of a flavor of their own, versions, and who promoted what and why.

Everything but `redact` and `audit` needs MLflow (extra `mlflow`); importing this package alone does not import it.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
