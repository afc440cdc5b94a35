"""Sandlot beside what people would use instead: one run, one machine, the same functions, over HTTP only."""
