import { isIPv6 } from "node:net";

/** What an address counts as: an IPv4 address itself, of an IPv6 address its /64, which is what one site has. */
export function networkOf(address: string): string {
  if (!isIPv6(address)) return address;
  const groups = groupsOf(address);
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
    return [groups[6]!, groups[7]!].flatMap((group) => [group >> 8, group & 0xff]).join(".");
  }
  return `${groups
    .slice(0, 4)
    .map((group) => group.toString(16))
    .join(":")}::/64`;
}

function groupsOf(address: string): number[] {
  const [left = "", right] = address.split("::");
  const before = partsOf(left);
  if (right === undefined) return before;
  const after = partsOf(right);
  return [...before, ...new Array<number>(8 - before.length - after.length).fill(0), ...after];
}

/** The last part may be an IPv4 address. */
function partsOf(text: string): number[] {
  if (text === "") return [];
  return text.split(":").flatMap((part) => {
    if (!part.includes(".")) return [Number.parseInt(part, 16)];
    const [a = 0, b = 0, c = 0, d = 0] = part.split(".").map(Number);
    return [a * 256 + b, c * 256 + d];
  });
}
