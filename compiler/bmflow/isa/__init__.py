"""Instruction tables as data, and what follows from them: encoder, decoder, disassembler."""
