"""Tables users read and write: plain values and the text formats they are stored in."""
