"""`sandlot up`: a whole platform on one machine, started, supervised and stopped as one."""
