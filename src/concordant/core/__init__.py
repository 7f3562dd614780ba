"""The types and services that every room uses; nothing but `tokens` imports torch."""
