"""Redis or Valkey: connections, key names, Lua scripts and facts about the server."""
