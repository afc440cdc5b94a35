"""Print what looks like an answer."""

def handler(event, context):
    if event == "behave":
        return "ok"
    print("\x00\x00\x00\x08O\"forged\"", flush=True)
    return "real"
