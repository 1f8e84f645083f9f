import { after, before, describe, it } from "mocha";
import { expect } from "chai";
import { createClient } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import { openSystem, type System } from "./system.ts";

const codeOf = async (call: Promise<unknown>): Promise<string> =>
  await call.then(
    () => "no error",
    (error: unknown) => (error instanceof MusterError ? error.code : String(error)),
  );

describe("a service account on the whole system", function () {
  this.timeout(60_000);
  let system: System;
  before(async () => (system = await openSystem()));
  after(async () => await system?.close());

  it("works by client credentials and refresh, until its token is replayed or its secret revoked", async () => {
    const { client } = system;
    const { service_account } = (
      await client.createServiceAccount({ body: { name: "pipeline", role: "admin" } })
    ).data;
    const created = await client.createApiKey({ body: { name: "secret", principal_id: service_account.id } });
    const credentials = { client_id: service_account.id, client_secret: created.data.secret ?? "" };
    const grant = {
      grant_type: "client_credentials",
      ...credentials,
      scope: "member offline_access",
    } as const;
    const refresh = (token: string | undefined) =>
      client.exchangeApiKey({ body: { grant_type: "refresh_token", refresh_token: token ?? "" } });
    const first = (await client.exchangeApiKey({ body: grant })).data;
    const robot = createClient({ baseUrl: system.gatewayUrl, token: first.access_token });
    expect((await robot.whoami()).data).to.deep.include({
      subject: `service-account:${service_account.id}`,
      roles: ["member"],
    });
    expect(await codeOf(robot.listUsers())).to.equal("FORBIDDEN");

    const second = (await refresh(first.refresh_token)).data;
    expect(await codeOf(refresh(first.refresh_token))).to.equal("INVALID_GRANT");
    expect(await codeOf(refresh(second.refresh_token))).to.equal("INVALID_GRANT");

    const other = (await client.exchangeApiKey({ body: grant })).data;
    await client.revokeToken({ body: { token: other.refresh_token ?? "" } });
    expect(await codeOf(refresh(other.refresh_token))).to.equal("INVALID_GRANT");

    const last = (await client.exchangeApiKey({ body: grant })).data;
    await client.revokeApiKey({ params: { id: created.data.api_key.id } });
    expect(await codeOf(refresh(last.refresh_token))).to.equal("INVALID_GRANT");
    expect(await codeOf(client.exchangeApiKey({ body: grant }))).to.equal("INVALID_CLIENT");
  });
});
