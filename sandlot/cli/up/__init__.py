"""`sandlot up`: everything on one machine, started, watched over and stopped together."""
