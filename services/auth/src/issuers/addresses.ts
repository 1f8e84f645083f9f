import { BlockList, isIP } from "node:net";

/** Networks of issuers that are not on the public internet, which an operator has allowed. */
export type Networks = Pick<BlockList, "check">;

type Family = "ipv4" | "ipv6";
const familyOf = (address: string): Family => (isIP(address) === 6 ? "ipv6" : "ipv4");

/** What is not the public internet: IANA's special-purpose registries (RFC 6890 and later). */
const special4 = blockListOf([
  ...["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"],
  ...["192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"],
  ...["192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"],
  ...["224.0.0.0/4", "240.0.0.0/4"],
]);
/**
 * All but global unicast; of that the documentation, and what carries an IPv4 address inside. A list of its own: a BlockList
 * takes an IPv4 address for the IPv6 one that it is mapped to.
 */
const special6 = blockListOf([
  ...["::/3", "4000::/2", "8000::/1", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"],
]);
const loopback = blockListOf(["127.0.0.0/8", "::1/128"]);

/** Throws for what is no network: `10.0.0.0/8`, `fd00::/8`. */
export function blockListOf(networks: readonly string[]): BlockList {
  const list = new BlockList();
  for (const network of networks) {
    const [address = "", prefix = ""] = network.split("/");
    if (isIP(address) === 0 || !/^[0-9]{1,3}$/.test(prefix)) throw new Error(`${network} is no network`);
    list.addSubnet(address, Number(prefix), familyOf(address));
  }
  return list;
}

/** A setting's networks, with commas between. Throws for what is none. */
export const networksOf = (text: string): Networks =>
  blockListOf(text.split(",").flatMap((network) => network.trim() || []));

/**
 * Whether an issuer's keys may be fetched from this address: the public internet, and what an operator allowed. Without TLS
 * only this very machine, where that is allowed.
 */
export function mayFetchFrom(address: string, protocol: string, allowed: Networks): boolean {
  const family = familyOf(address);
  const listed = allowed.check(address, family);
  const special = family === "ipv4" ? special4 : special6;
  if (protocol === "https:") return listed || !special.check(address, family);
  return protocol === "http:" && listed && loopback.check(address, family);
}

/** What is wrong with an address of an issuer, as far as that is seen without asking for its name; undefined: nothing. */
export function addressFault(text: string, allowed: Networks): string | undefined {
  if (!URL.canParse(text)) return "must be an address like https://login.example.org";
  const url = new URL(text);
  if (url.username !== "" || url.password !== "" || text.includes("#")) {
    return "must have neither credentials nor a fragment";
  }
  const host = hostOf(url);
  if (isIP(host) !== 0) {
    return mayFetchFrom(host, url.protocol, allowed)
      ? undefined
      : `${host} may not be asked by ${url.protocol}`;
  }
  // By name without TLS: what the name means is looked at when it is asked for.
  const local =
    url.protocol === "http:" && host === "localhost" && mayFetchFrom("127.0.0.1", "http:", allowed);
  return url.protocol === "https:" || local ? undefined : "must begin with https://";
}

/** As it is connected to: IPv6 without brackets. */
export const hostOf = (url: URL): string => url.hostname.replace(/^\[(.*)\]$/, "$1");
