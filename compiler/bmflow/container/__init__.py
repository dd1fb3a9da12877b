"""The bmodel file: header, flatbuffer, blobs; writing a program, reading it back, and cutting and joining files."""
