// The handler's `context`: Lambda's fields with Lambda's names for Node, and the job.
//
// The values come from `I` and from the context of an `R` frame (runtimes/PROTOCOL.md). The
// remaining time is informative; the worker enforces the limit.

"use strict";

/**
 * Return a function from the context of an `R` frame to the handler's `context`.
 *
 * `init` holds what all invocations of this process share.
 */
function contextsOf(init) {
  const functionName = String(init.function ?? "");
  const functionVersion = String(init.version ?? "");
  // Code written for Lambda splits an ARN at its colons, so this has as many as Lambda's.
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
