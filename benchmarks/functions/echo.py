# /// script
# [tool.sandlot]
# visibility = "public"
# ///
def handler(event, context):
    return event
