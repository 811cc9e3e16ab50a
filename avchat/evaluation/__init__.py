"""Measuring models: what is asked (items), what was said (records), what it shows (reports).

`eval/` holds the scripts; this is what they share.
"""
