"""Generators of the documents' pictures, by screenshots in headless Chromium.

Public modules: browser, field_guide.
"""
