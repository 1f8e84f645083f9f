/** Why a token of an outside issuer is refused; also a metric's label. */
export const refusalReasons = [
  "malformed",
  "untrusted",
  "ambiguous",
  "signature",
  "claims",
  "expired",
  "not-yet-valid",
  "bound",
  "no-role",
  "account",
] as const;
export type RefusalReason = (typeof refusalReasons)[number];

/** Said to whoever presented it only where the issuer's signature showed that he holds a token of it. */
const told: ReadonlySet<RefusalReason> = new Set(["claims", "expired", "not-yet-valid", "bound", "no-role"]);

/** A token of an outside issuer that gets nothing; the message is for our log, and never has the token in it. */
export class TokenRefused extends Error {
  override readonly name = "TokenRefused";
  readonly reason: RefusalReason;

  constructor(reason: RefusalReason, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.reason = reason;
  }

  get isTold(): boolean {
    return told.has(this.reason);
  }
}
