"""The machine: devices, processes, and speed measurements."""
