"""Weight files as bytes: number formats, checked headers, writers that leave a whole file or none, the Hub's cache.

Needs numpy alone; torch is never imported here.
"""
