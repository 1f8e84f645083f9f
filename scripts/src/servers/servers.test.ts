import { expect } from "chai";
import { accountNamed } from "./accounts.ts";
import { parseAmqpUrl } from "./amqp-probe.ts";
import { managementUrlFor, withoutPassword } from "./external.ts";
import { hashPassword, renderConfig, renderDefinitions } from "./rabbit-files.ts";

const ports = { amqp: 1, management: 2, prometheus: 3, distribution: 4, epmd: 5 };

describe("a private broker's files", () => {
  it("hash a password in RabbitMQ's own form", () => {
    const hashed = Buffer.from(hashPassword("test12", Buffer.from([0x90, 0x8d, 0xc6, 0x0a])), "base64");
    // The example of RabbitMQ's documentation of password hashing.
    expect(hashed.toString("base64")).to.equal("kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
  });

  it("name one administrator and no guest", () => {
    const { users } = JSON.parse(renderDefinitions("secret")) as {
      users: { name: string; tags: string[] }[];
    };
    expect(users.map(({ name }) => name)).to.deep.equal(["muster"]);
    expect(renderDefinitions("secret")).to.not.contain('"secret"');
  });

  it("listen on the loopback address only", () => {
    const text = renderConfig("heartbeat = 30\n", ports, "/d.json");
    expect(text).to.contain("listeners.tcp.1 = 127.0.0.1:1\n");
    expect(text).to.contain("management.tcp.ip = 127.0.0.1\n");
    expect(text).to.contain("prometheus.tcp.ip = 127.0.0.1\n");
    expect(text).to.match(/^heartbeat = 30\n/);
  });
});

describe("the address of a broker", () => {
  it("has the defaults of the AMQP URI specification", () => {
    expect(parseAmqpUrl("amqp://h")).to.deep.equal({
      secure: false,
      host: "h",
      port: 5672,
      user: "guest",
      password: "guest",
      vhost: "/",
    });
    const full = parseAmqpUrl("amqps://u%40x:p%2Fw@[::1]:1234/a%2Fb");
    expect(full).to.deep.equal({
      secure: true,
      host: "::1",
      port: 1234,
      user: "u@x",
      password: "p/w",
      vhost: "a/b",
    });
    expect(parseAmqpUrl("amqps://h").port).to.equal(5671);
    expect(() => parseAmqpUrl("http://h")).to.throw("amqp://");
  });

  it("leads to its management API, unless another was given", () => {
    expect(managementUrlFor("amqp://u:p@h:9/v", undefined)).to.equal("http://u:p@h:15672");
    expect(managementUrlFor("amqps://u:p@h", "")).to.equal("https://u:p@h:15671");
    expect(managementUrlFor("amqp://u:p@h", "http://a:b@m:1/")).to.equal("http://a:b@m:1");
  });

  it("is shown without its password", () => {
    expect(withoutPassword("amqp://u:topsecret@h:1/v")).to.equal("amqp://u:***@h:1/v");
  });
});

describe("the database's user", () => {
  it("is looked up by name", () => {
    const passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:101:104::/var/lib/postgresql:/bin/bash\n";
    expect(accountNamed("postgres", passwd)).to.deep.equal({ name: "postgres", uid: 101, gid: 104 });
    expect(accountNamed("post", passwd)).to.equal(undefined);
  });
});
