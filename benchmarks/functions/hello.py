# /// script
# [tool.sandlot]
# visibility = "public"
# ///
def handler(event, context):
    return {"message": "it works!", "status": "ok "}
