"""Run one stage: `python -m bmflow_components STAGE ...`."""

from bmflow_components.process import main

raise SystemExit(main())
