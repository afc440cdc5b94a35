"""`python watched.py LOG ARM program [word…]`: run a program under an audit hook (PEP 578).

The hook logs every event by which the program could run code or reach out. It logs nothing before
the file ARM exists, because a start imports and compiles.
"""

import json
import os
import runpy
import sys

log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
arm = sys.argv[2]
program = sys.argv[3]
WATCHED = {
    "import", "compile", "exec", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.startfile", "subprocess.Popen",
    "pickle.find_class", "marshal.loads", "code.__new__", "ctypes.dlopen", "socket.connect", "socket.getaddrinfo", "webbrowser.open",
    "urllib.Request", "os.putenv",
}  # fmt: skip
armed = False
quiet = False


def told(event, arguments):
    if event == "exec":  # the code object's file and name
        return [getattr(arguments[0], "co_filename", "?"), getattr(arguments[0], "co_name", "?")]
    if event == "compile":
        return [repr(arguments[0])[:200], repr(arguments[1])]
    return [repr(argument)[:500] for argument in arguments]


def hook(event, arguments):
    global armed, quiet
    if quiet or (armed and event not in WATCHED):
        return
    quiet = True
    try:
        if not armed:
            armed = os.path.exists(arm)
            if armed:
                os.write(log, (json.dumps([program, "armed"]) + "\n").encode())
        if not armed or event not in WATCHED:
            return
        os.write(log, (json.dumps([program, event, *told(event, arguments)]) + "\n").encode())
    finally:
        quiet = False


sys.addaudithook(hook)
sys.argv = [program, *sys.argv[4:]]
runpy.run_module(program, run_name="__main__", alter_sys=True)
