import { expect } from "chai";
import { addressFault, blockListOf, mayFetchFrom } from "./addresses.ts";

const none = blockListOf([]);

describe("where an issuer's keys may be fetched from", () => {
  const inside = [
    ...["0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1"],
    ...["172.31.255.255", "192.0.0.1", "192.168.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255"],
    ...[
      "::",
      "::1",
      "::ffff:127.0.0.1",
      "::ffff:10.0.0.1",
      "::ffff:8.8.8.8",
      "64:ff9b::a00:1",
      "fe80::1",
      "fd00::1",
    ],
    ...["fc00::1", "ff02::1", "2002:a00:1::", "2001:db8::1", "2001::1", "100::1", "4000::1"],
  ];
  const public_ = [
    "8.8.8.8",
    "172.15.255.255",
    "172.32.0.0",
    "100.128.0.0",
    "20.190.128.1",
    "2606:4700::1",
    "2a00:1450::1",
  ];

  it("is the public internet, by TLS only", () => {
    for (const address of inside) expect(mayFetchFrom(address, "https:", none), address).to.equal(false);
    for (const address of public_) {
      expect(mayFetchFrom(address, "https:", none), address).to.equal(true);
      expect(mayFetchFrom(address, "http:", none), address).to.equal(false);
    }
  });

  it("is besides what an operator allowed; without TLS this machine alone", () => {
    const allowed = blockListOf(["10.0.0.0/8", "127.0.0.1/32", "fd00::/8", "::1/128", "8.8.8.0/24"]);
    for (const address of ["10.1.2.3", "127.0.0.1", "fd00::1", "::1"]) {
      expect(mayFetchFrom(address, "https:", allowed), address).to.equal(true);
    }
    for (const address of ["127.0.0.2", "192.168.0.1", "fe80::1", "169.254.169.254"]) {
      expect(mayFetchFrom(address, "https:", allowed), address).to.equal(false);
    }
    for (const address of [...inside, ...public_, "10.1.2.3"]) {
      const here = ["127.0.0.1", "::1", "::ffff:127.0.0.1"].includes(address);
      expect(mayFetchFrom(address, "http:", allowed), address).to.equal(here);
    }
    for (const protocol of ["ftp:", "file:", "ws:"]) {
      expect(mayFetchFrom("127.0.0.1", protocol, allowed)).to.equal(false);
    }
  });

  it("is seen from an address as far as it can be before its name is asked for", () => {
    expect(addressFault("https://login.example.org/realms/a", none)).to.equal(undefined);
    expect(addressFault("https://localhost", none), "what it means is looked at later").to.equal(undefined);
    const faults = [
      ...[
        "http://login.example.org",
        "http://localhost:8080",
        "http://127.0.0.1",
        "https://127.1",
        "https://2130706433",
      ],
      ...[
        "https://0x7f.0.0.1",
        "https://[::1]:8443",
        "https://[::ffff:7f00:1]",
        "ftp://8.8.8.8",
        "login.example.org",
      ],
      ...["https://a:b@login.example.org", "https://a@login.example.org", "https://login.example.org#"],
    ];
    for (const text of faults) expect(addressFault(text, none), text).to.be.a("string");
    const here = blockListOf(["127.0.0.0/8"]);
    expect(addressFault("http://localhost:8080", here)).to.equal(undefined);
    expect(addressFault("http://127.0.0.1:8080", here)).to.equal(undefined);
    expect(addressFault("http://login.example.org", here)).to.be.a("string");
  });

  it("is no network where it is none", () => {
    for (const text of [
      "10.0.0.0",
      "10.0.0.0/33",
      "example.org/8",
      "10.0.0.0/",
      "/8",
      "fd00::/129",
      "10.0.0.0/-1",
    ]) {
      expect(() => blockListOf([text]), text).to.throw();
    }
  });
});
