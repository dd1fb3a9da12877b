"""What top.Input records about pictures, executed the same everywhere: decode, resize, crop, normalize, lay out."""

from bmflow.preprocess.picture import Preprocess

__all__ = ["Preprocess"]
