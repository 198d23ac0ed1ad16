"""The JPEG seek index, with which only the part of a JPEG that its crop needs is read and decoded.

Public modules: seek_index.
"""
