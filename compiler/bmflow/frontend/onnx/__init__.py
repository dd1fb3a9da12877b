"""ONNX: read the file, resolve shapes and constants, convert node by node."""

from bmflow.frontend.onnx.importer import Imported, InputRecord, import_onnx

__all__ = ["Imported", "InputRecord", "import_onnx"]
