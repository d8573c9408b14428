"""Multimodal energy-based models."""
