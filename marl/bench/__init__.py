"""Measuring instruments: what is timed, beside whom, and how the figures are written down."""
