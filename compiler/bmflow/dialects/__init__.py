"""Op definitions: `top` says what a network computes, `tpu` how a processor's number types compute it."""

from bmflow.dialects.top import Top
from bmflow.dialects.tpu import Tpu

DIALECTS = (Top, Tpu)
