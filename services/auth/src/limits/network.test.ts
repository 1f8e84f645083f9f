import { expect } from "chai";
import { networkOf } from "./network.ts";

describe("what an address counts as", () => {
  it("is an IPv4 address by itself, also where IPv6 carries it", () => {
    for (const one of ["203.0.113.7", "::ffff:203.0.113.7", "::ffff:cb00:7107", "0:0:0:0:0:ffff:cb00:7107"]) {
      expect(networkOf(one), one).to.equal("203.0.113.7");
    }
  });

  it("is the /64 of an IPv6 address, however it is written", () => {
    const same = ["2001:db8::1", "2001:db8:0:0:ffff::", "2001:0db8:0:0:1:2:3:4", "2001:db8::1.2.3.4"];
    for (const one of same) expect(networkOf(one), one).to.equal("2001:db8:0:0::/64");
    expect(networkOf("2001:db8:0:1::1")).to.equal("2001:db8:0:1::/64");
    expect(networkOf("::1")).to.equal("0:0:0:0::/64");
  });
});
