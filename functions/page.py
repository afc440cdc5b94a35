"""A web page: the event is the HTTP request, the result the HTTP response.

Both have the format of Lambda's function URLs.

Open http://127.0.0.1:8000/fn/page/any/path?name=Ada in a browser.
"""
# /// script
# [tool.sandlot]
# visibility = "public"
# ///

from html import escape

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Sandlot</title>
<style>body {{ font: 1.1rem/1.6 system-ui; max-width: 40rem; margin: 4rem auto }} code {{ background: #eee; padding: 0 .3em }}</style>
<h1>Hello, {name}</h1>
<p>You asked for <code>{path}</code> with <code>{method}</code>; job <code>{job}</code> answered.</p>
<form method="get"><label>Your name <input name="name" value="{name}"></label> <button>Greet me</button></form>
"""


def handler(event, context):
    request = event["requestContext"]["http"]
    if request["method"] not in ("GET", "HEAD"):
        return {
            "statusCode": 405,
            "headers": {"allow": "GET, HEAD", "content-type": "text/plain"},
            "body": "only GET\n",
        }
    name = (event.get("queryStringParameters") or {}).get("name", "stranger")
    body = PAGE.format(
        name=escape(name), path=escape(event["rawPath"]), method=escape(request["method"]), job=escape(context.job_id)
    )
    return {"statusCode": 200, "headers": {"content-type": "text/html; charset=utf-8"}, "body": body}
