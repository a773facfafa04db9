"""Measurements, and the networks that they are made on."""
