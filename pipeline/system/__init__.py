"""The operating system: CPU cores, memory, threads, file locks, atomic writes and printable names.

Public modules: atomic_write, cpu, file_lock, memory_budget, parallel_map, printable, progress,
tensor_memory.
"""
