// What a handler learns about its invocation: Lambda's `context` with Lambda's names for Node, plus the job.
//
// Knows: the fields of `I` and of an invoke frame's context. Does not know: how limits are enforced; the remaining time is a courtesy.

"use strict";

/** A function from an invoke frame's context to the handler's `context`; `init` is what all invocations of this process share. */
function contextsOf(init) {
  const functionName = String(init.function ?? "");
  const functionVersion = String(init.version ?? "");
  // Code written for Lambda splits this at colons, so it has as many as Lambda's.
  const invokedFunctionArn = `arn:aws:lambda:local:000000000000:function:${functionName}:${functionVersion}`;
  const memoryLimitInMB = String(init.memory_limit_mib ?? "");
  const logGroupName = `/aws/lambda/${functionName}`;
  return (fields) => {
    const ends = performance.now() + fields.remaining_ms;
    return {
      callbackWaitsForEmptyEventLoop: true,
      functionName,
      functionVersion,
      invokedFunctionArn,
      memoryLimitInMB,
      logGroupName,
      logStreamName: `[${functionVersion}]${fields.job_id}`,
      awsRequestId: fields.job_id,
      clientContext: fields.request?.client_context,
      jobId: fields.job_id,
      attempt: fields.attempt,
      traceparent: fields.traceparent ?? "",
      getRemainingTimeInMillis: () => Math.max(0, Math.floor(ends - performance.now())),
    };
  };
}

module.exports = { contextsOf };
