"""Measurements in, pages and pictures for people out."""
