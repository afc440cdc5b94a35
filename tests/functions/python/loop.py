"""Loop, two calls deep."""

def spin():
    while True:
        pass


def handler(event, context):
    if event == "behave":
        return "ok"
    spin()
