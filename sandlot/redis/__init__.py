"""Redis or Valkey: connections, key names, Lua scripts and what every package needs of the server."""
