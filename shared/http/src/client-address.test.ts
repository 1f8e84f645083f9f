import { expect } from "chai";
import type { IncomingMessage } from "node:http";
import { clientAddressOf, trustedProxies } from "./client-address.ts";

const of = (remoteAddress: string | undefined, forwarded: string | undefined, ...trusted: string[]) => {
  const headers = { "x-forwarded-for": forwarded };
  const request = { socket: { remoteAddress }, headers } as unknown as IncomingMessage;
  return clientAddressOf(request, trustedProxies(trusted));
};

describe("the client's address", () => {
  it("is the connection's, whatever a stranger writes", () => {
    expect(of("198.51.100.1", "203.0.113.7")).to.equal("198.51.100.1");
    expect(of("198.51.100.1", "203.0.113.7", "10.0.0.0/8")).to.equal("198.51.100.1");
    expect(of("::ffff:198.51.100.1", undefined)).to.equal("198.51.100.1");
    expect(of("fe80::1%eth0", undefined)).to.equal("fe80::1");
    expect(of(undefined, "203.0.113.7", "0.0.0.0/0")).to.equal(undefined);
  });

  it("is whom the last trusted proxy heard from, never what stands left of that", () => {
    expect(of("10.0.0.1", "1.1.1.1, 203.0.113.7", "10.0.0.0/8")).to.equal("203.0.113.7");
    expect(of("10.0.0.1", "1.1.1.1, 203.0.113.7, 10.9.9.9", "10.0.0.0/8")).to.equal("203.0.113.7");
    expect(of("::ffff:10.0.0.1", "2001:DB8::1", "10.0.0.1")).to.equal("2001:db8::1");
    expect(of("fd00::1", "[2001:db8::2]:443", "fd00::/8")).to.equal("2001:db8::2");
    expect(of("10.0.0.1", "203.0.113.7:5060", "10.0.0.1")).to.equal("203.0.113.7");
  });

  it("stays the proxy's where it names nobody", () => {
    for (const named of [undefined, "", "unknown", "1.1.1.1, _hidden", "1.1.1.1,"]) {
      expect(of("10.0.0.1", named, "10.0.0.1"), named).to.equal("10.0.0.1");
    }
    expect(of("10.0.0.1", "10.0.0.2", "10.0.0.0/8"), "all of them trusted").to.equal("10.0.0.2");
  });

  it("takes addresses and blocks of both families, and names what is none", () => {
    for (const bad of ["10.0.0.0/33", "fd00::/129", "proxy.example", "10.0.0", "/8", ""]) {
      expect(() => trustedProxies([bad]), bad).to.throw(RangeError);
    }
    expect(of("10.1.2.3", "203.0.113.7", "fd00::/8", "10.1.2.3/32")).to.equal("203.0.113.7");
  });
});
