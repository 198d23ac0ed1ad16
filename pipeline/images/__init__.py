"""Decoding of encoded images: which part to decode, at which scale, and which files a decoder must not see.

Public modules: convert, crop, decode, exif, file_type, header, perceptual_hash, raw_resize, sample_bits, scaling.
"""
