"""The same bits, and executed instructions, on an emulated ARM64 core."""
