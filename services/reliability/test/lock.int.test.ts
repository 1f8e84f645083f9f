import { openAdvisoryLock } from "@muster/database/advisory-lock";
import { openLogger } from "@muster/telemetry/logger";
import { setupDatabase } from "@muster/testing/database";
import { eventually } from "@muster/testing/eventually";
import { openFaultyLink } from "@muster/testing/faults";
import { expect } from "chai";
import { closeAfterTest, closeAfterEachTest } from "./setup.ts";

closeAfterEachTest();

const logger = openLogger({ service: "test", level: "silent" });

async function setup() {
  const database = await setupDatabase({ migrations: [] });
  closeAfterTest({ close: database.destroy });
  const link = closeAfterTest(await openFaultyLink(database.adminUrl));
  const story: string[] = [];
  const contend = (name: string, url: string) =>
    closeAfterTest(
      openAdvisoryLock({
        url,
        key: "test.lock",
        applicationName: `lock ${name}`,
        checkMs: 100,
        timeoutMs: 500,
        onAcquired: () => story.push(`${name} has it`),
        onLost: () => story.push(`${name} lost it`),
        logger,
      }),
    );
  return { url: database.adminUrl, link, story, contend };
}

describe("an advisory lock", () => {
  it("has one holder, and passes on when that one closes", async () => {
    const { url, story, contend } = await setup();
    const first = contend("first", url);
    await eventually(() => first.held);
    const others = ["second", "third"].map((name) => contend(name, url));
    await first.close();
    await eventually(() => others.some(({ held }) => held));
    expect(others.filter(({ held }) => held)).to.have.length(1);
    expect(story[0]).to.equal("first has it");
    expect(story).not.to.include("first lost it");
  });

  for (const fault of ["cut", "blackhole"] as const) {
    it(`passes on when the holder's link is hit by a ${fault}, and the holder knows first`, async () => {
      const { url, link, story, contend } = await setup();
      const first = contend("first", link.url);
      await eventually(() => first.held);
      const second = contend("second", url);
      if (fault === "cut") link.refuse();
      link[fault]();
      await eventually(() => second.held);
      expect(first.held).to.equal(false);
      if (fault === "blackhole")
        expect(story).to.deep.equal(["first has it", "first lost it", "second has it"]);
      link.heal();
      await second.close();
      await eventually(() => first.held);
    });
  }
});
