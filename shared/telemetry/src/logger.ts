import { pino, type Logger as PinoLogger, type LoggerOptions } from "pino";
import { currentContext, traceIdOf } from "./context.ts";
import { scrub, scrubText } from "./redact.ts";

export type Logger = PinoLogger;

export const logLevels = ["fatal", "error", "warn", "info", "debug", "trace", "silent"] as const;

/**
 * JSON lines, by default to standard output, written before the call returns so that a crash loses none.
 * Each line carries the current work context; nothing secret gets out at any depth.
 */
export function openLogger(o: {
  service: string;
  level: string;
  destination?: NodeJS.WritableStream;
}): Logger {
  const options: LoggerOptions = {
    level: o.level,
    base: { service: o.service, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }), log: scrub },
    // Errors are described by scrub before serializers run.
    serializers: { err: (described: unknown) => described },
    mixin: contextFields,
    hooks: { streamWrite: scrubText },
  };
  const logger = pino(options, o.destination ?? pino.destination({ dest: 1, sync: true }));
  scrubBindings(logger);
  return logger;
}

function contextFields(): Record<string, string> {
  const context = currentContext();
  const fields: Record<string, string> = {};
  if (context === undefined) return fields;
  fields["correlation_id"] = context.correlationId;
  if (context.traceparent !== undefined) fields["trace_id"] = traceIdOf(context.traceparent);
  if (context.tenantId !== undefined) fields["tenant_id"] = context.tenantId;
  return fields;
}

/** pino formats bindings of the root only; children inherit this `child` through their prototype. */
function scrubBindings(logger: Logger): void {
  const child = logger.child;
  Object.defineProperty(logger, "child", {
    value: function (this: Logger, bindings: Record<string, unknown>, options?: object) {
      return child.call(this, scrub(bindings), options);
    },
  });
}
