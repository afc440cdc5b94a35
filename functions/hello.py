"""The smallest function: it shows that everything works.

curl -X POST http://127.0.0.1:8000/v1/functions/hello/invoke
"""
# /// script
# [tool.sandlot]
# visibility = "public"
# ///


def handler(event, context):
    return {"message": "it works!", "status": "ok "}
