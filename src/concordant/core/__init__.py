"""The types that flow through the house, and the few services every room uses.

Nothing here imports torch except `tokens`.
"""
