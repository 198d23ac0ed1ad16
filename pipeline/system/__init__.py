"""The operating system: CPU cores, memory, file locks and atomic writes.

Public modules: atomic_write, cpu, file_lock, memory_budget, tensor_memory.
"""
