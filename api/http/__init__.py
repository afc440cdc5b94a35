"""HTTP mechanics that no route owns: bodies, conditional requests, problem documents, the request cycle."""
