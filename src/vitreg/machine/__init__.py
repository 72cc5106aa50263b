"""The machine: devices, processes, and what is fastest on it."""
