/** A handler whose types were checked where it was given; in here all are alike. */
export type AnyHandler = (...given: readonly unknown[]) => Promise<unknown>;

const isHandler = (value: unknown): value is AnyHandler => typeof value === "function";

/** Throws when there is none: the compiler saw to that, unless it was not asked. */
export function handlerOf(handlers: object, key: string, name: string): AnyHandler {
  const handler: unknown = Reflect.get(handlers, key);
  if (!isHandler(handler)) throw new Error(`${name}: no handler under the key ${key}`);
  return handler;
}
