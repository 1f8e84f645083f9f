import type { BindingTarget } from "./store.ts";

export interface Choosable {
  readonly binding_id: string;
  readonly target: BindingTarget;
  /** Null: for every field. */
  readonly field: string | null;
}

/** Narrow before wide. */
const rankOf = (target: BindingTarget): number => ("vm_uuid" in target ? 0 : "project_id" in target ? 1 : 2);

/** For this field: what names it before what is for all; then by the target; then the oldest. */
export function bestBinding<B extends Choosable>(bindings: readonly B[], field: string): B | undefined {
  const order = (a: B, b: B): number =>
    Number(a.field === null) - Number(b.field === null) ||
    rankOf(a.target) - rankOf(b.target) ||
    (a.binding_id < b.binding_id ? -1 : 1);
  return bindings.filter((one) => one.field === null || one.field === field).sort(order)[0];
}
