"""What is read from the text a runtime writes when it is asked where it is."""

from __future__ import annotations

from worker.pool.stack_trace import node_stack, python_stack

FAULTHANDLER = b"""Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
  File "/fn/other.py", line 9 in work

Current thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/socket.py", line 12 in recv
  File "/fn/main.py", line 3 in inner
  File "/fn/main.py", line 5 in handler
  File "/srv/runtimes/python/runner.py", line 85 in _call
  File "<string>", line 1 in <module>

Thread 0x00007f03 (most recent call first):
  File "/fn/third.py", line 1 in spin
"""

V8 = b"""printed
KEYBOARD_INTERRUPT: Script execution was interrupted by `SIGINT`
    at inner (/fn/index.js:1:19)
    at handler (/fn/index.js:2:21)
    at Invocations.next (file:///srv/runtimes/node/runner.cjs:45:22)

"""


def test_the_interrupted_thread_from_its_first_user_frame_inwards() -> None:
    assert python_stack(FAULTHANDLER, "/fn") == [
        'File "/fn/main.py", line 5, in handler',
        'File "/fn/main.py", line 3, in inner',
        'File "/usr/lib/python3.11/socket.py", line 12, in recv',
    ]


def test_v8s_frames_are_taken_out_of_the_logs() -> None:
    frames, logs = node_stack(V8, "/fn")
    assert frames == ["at handler (/fn/index.js:2:21)", "at inner (/fn/index.js:1:19)"]
    assert logs == b"printed\n"


def test_without_a_hint_there_are_no_frames() -> None:
    assert python_stack(b"", "/fn") == []
    assert python_stack(b"\xff" * 1000, "/fn") == []
    assert node_stack(b"just logs\n", "/fn") == ([], b"just logs\n")


def test_a_stack_as_long_as_its_writer_likes_is_cut() -> None:
    text = b"Current thread 0x1 (most recent call first):\n" + b'  File "/fn/main.py", line 3 in f\n' * 10_000
    assert len(python_stack(text, "/fn")) == 40
