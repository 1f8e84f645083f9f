import { randomInt } from "node:crypto";
import type { generator } from "@muster/contracts/secrets";
import type { z } from "zod";

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const digits = "0123456789";
/** Every visible character of ASCII. */
const printable = Array.from({ length: 94 }, (_, at) => String.fromCharCode(0x21 + at)).join("");

export const alphabets = {
  alphanumeric: letters + digits,
  printable,
  hex: "0123456789abcdef",
  digits,
} as const satisfies Record<z.output<typeof generator>["alphabet"], string>;

/** Each character is as likely as any other. */
export function generate(o: Pick<z.output<typeof generator>, "length" | "alphabet">): string {
  const alphabet = alphabets[o.alphabet];
  return Array.from({ length: o.length }, () => alphabet[randomInt(alphabet.length)]).join("");
}
