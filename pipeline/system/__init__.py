"""The operating system: CPU cores, memory, file locks, atomic writes and printable names.

Public modules: atomic_write, cpu, file_lock, memory_budget, printable, progress, tensor_memory.
"""
