"""Figures: functions from arrays to matplotlib figures. They load nothing."""
