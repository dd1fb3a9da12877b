"""bmflow compiles trained networks into bmodels for Sophgo processors, and proves what it made."""

__version__ = "0.1.0"
