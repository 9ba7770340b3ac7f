"""Forecasts every model must beat: persistence, climatology, damped persistence."""
