"""Joins the engine, which shows what a model does, and the diagnostics, which reduce it; draws and reports."""
