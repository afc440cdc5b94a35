"""The program that sandboxes are forked from.

The worker executes it as a clean process: `python -I`, a literal environment, and one inherited
socket. Its memory is in the memory of every sandbox, so it imports the standard library and its own
folder, never the worker. Imports here are relative for that reason.

Comments in this package name the process that runs a function:

- worker: the process with the queue and its secrets; it executes the zygote;
- zygote: one process per runtime, with one thread; it forks, reaps and reports;
- fork server: a child of the zygote that only forks (strict level);
- init: the first process of a sandbox, PID 1 inside at the strict level;
- runtime: the process that runs the function, PID 2 inside. At the restricted level one process is
  both.
"""
