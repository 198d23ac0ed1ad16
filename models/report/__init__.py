"""The doctor's report: a diagnosis as an HTML page, as text and as JSON; charts and page style are shared.

Public modules: charts, diagnosis_json, markup, page, text.
"""
