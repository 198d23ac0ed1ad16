"""Reports of benchmark results: an HTML page, Markdown tables for the documents, and the history over commits.

Public modules: history_page, history_store, page, tables.
"""
