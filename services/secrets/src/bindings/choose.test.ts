import { expect } from "chai";
import { describe, it } from "mocha";
import { bestBinding } from "./choose.ts";
import type { Choosable } from "./choose.ts";

const vm = { vm_uuid: "0190aaaa-0000-7000-8000-000000000001" };
const project = { project_id: "shop" };
const labels = { labels: { tier: "db" } };
const binding = (binding_id: string, target: Choosable["target"], field: string | null = null) => ({
  binding_id,
  target,
  field,
});

describe("of several bindings for one reference", () => {
  const cases: [string, Choosable[], string | undefined][] = [
    ["none, where there is none", [], undefined],
    ["none, where all are for another field", [binding("a", vm, "user")], undefined],
    ["one for the field before one for all", [binding("a", vm), binding("b", labels, "value")], "b"],
    ["one for the VM before one for a project", [binding("a", project), binding("b", vm)], "b"],
    ["one for a project before one by labels", [binding("a", labels), binding("b", project)], "b"],
    ["one for the VM before one by labels", [binding("a", labels), binding("b", vm)], "b"],
    ["the oldest of those alike", [binding("b", vm), binding("a", vm), binding("c", vm)], "a"],
  ];
  for (const [what, bindings, chosen] of cases) {
    it(`it is ${what}`, () => {
      expect(bestBinding(bindings, "value")?.binding_id).to.equal(chosen);
      expect(bestBinding([...bindings].reverse(), "value")?.binding_id).to.equal(chosen);
    });
  }
});
