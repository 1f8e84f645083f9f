import { uuidv7 } from "@muster/contracts/ids";
import { accessTokenAudience, accessTokenIssuer, accessTokenType } from "@muster/contracts/principal";
import type { Principal } from "@muster/contracts/principal";
import { SignJWT } from "jose";
import type { SigningKey } from "./key-pair.ts";

export interface Minted {
  readonly token: string;
  readonly expiresInSeconds: number;
}

export interface MinterOptions {
  readonly ttlSeconds: number;
  /** How many holders' tokens are kept for use again. */
  readonly keptMax: number;
}

/** The key that signs, and a time at or before which that was read: no token outlives what was promised for its key. */
export interface SigningNow {
  readonly key: SigningKey;
  /** Milliseconds since 1970. */
  readonly atMs: number;
  readonly origin: Origin;
}

/** What a token is made from; what is revoked of it later makes the token void. */
export interface Origin {
  /** The last revocation of the tenant that whoever is signed for was looked at after. */
  readonly asOf: Date;
  /** What it is exchanged for, such as `api-key:<id>`. */
  readonly via: readonly string[];
}

interface Kept {
  readonly grant: string;
  readonly token: Promise<string>;
  readonly expiresAtSeconds: number;
}

/** Signs access tokens (RFC 9068); a holder who asks again soon gets the same one, at no cost. */
export class Minter {
  readonly #o: MinterOptions;
  readonly #kept = new Map<string, Kept>();

  constructor(o: MinterOptions) {
    this.#o = o;
  }

  /**
   * `id` names what is exchanged; a token made before for it is given again while half its life is left, its key still
   * signs, and nothing of the tenant was revoked since.
   */
  async mint(id: string, principal: Principal, notAfter: Date | null, signing: SigningNow): Promise<Minted> {
    const nowSeconds = Math.floor(signing.atMs / 1_000);
    const latest = notAfter === null ? Infinity : Math.floor(notAfter.getTime() / 1_000);
    const grant = JSON.stringify([signing.key.kid, principal, latest, signing.origin]);
    let kept = this.#kept.get(id);
    const halfLife = nowSeconds + this.#o.ttlSeconds / 2;
    if (kept === undefined || kept.grant !== grant || kept.expiresAtSeconds < halfLife) {
      const expiresAtSeconds = Math.max(nowSeconds + 1, Math.min(nowSeconds + this.#o.ttlSeconds, latest));
      kept = { grant, expiresAtSeconds, token: sign(principal, signing, nowSeconds, expiresAtSeconds) };
      kept.token.catch(() => this.#kept.delete(id));
      this.#keep(id, kept);
    }
    return { token: await kept.token, expiresInSeconds: kept.expiresAtSeconds - nowSeconds };
  }

  #keep(id: string, kept: Kept): void {
    this.#kept.delete(id);
    this.#kept.set(id, kept);
    if (this.#kept.size <= this.#o.keptMax) return;
    const oldest = this.#kept.keys().next();
    if (!oldest.done) this.#kept.delete(oldest.value);
  }
}

function sign(
  principal: Principal,
  { key, origin }: SigningNow,
  nowSeconds: number,
  expiresAtSeconds: number,
): Promise<string> {
  return new SignJWT({
    tenant_id: principal.tenant_id,
    roles: principal.roles,
    permissions: principal.permissions,
    as_of: origin.asOf.getTime(),
    via: origin.via,
  })
    .setProtectedHeader({ alg: key.alg, kid: key.kid, typ: accessTokenType })
    .setIssuer(accessTokenIssuer)
    .setAudience(accessTokenAudience)
    .setSubject(principal.subject)
    .setJti(uuidv7())
    .setIssuedAt(nowSeconds)
    .setNotBefore(nowSeconds)
    .setExpirationTime(expiresAtSeconds)
    .sign(key.privateKey);
}
