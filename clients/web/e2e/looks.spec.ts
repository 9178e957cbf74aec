import { createRequire } from "node:module";
import { expect, type Page } from "@playwright/test";
import type { AxeResults } from "axe-core";
import { explain, keptHead, test } from "./server";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

/** What axe finds that keeps people from using the page. */
async function serious(page: Page): Promise<string[]> {
  await page.evaluate(await script());
  const results = await page.evaluate(() =>
    (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run(),
  );
  return results.violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
}

async function script(): Promise<string> {
  const { readFile } = await import("node:fs/promises");
  return readFile(AXE, "utf-8");
}

for (const [width, colorScheme] of [
  [1280, "light"],
  [390, "dark"],
] as const) {
  test.describe(`at ${width} px, ${colorScheme}`, () => {
    test.use({ viewport: { width, height: 900 }, colorScheme, contextOptions: { reducedMotion: "reduce" } });

    test("nothing is cut off, and axe finds nothing serious", async ({ page, server }) => {
      await page.goto(`${server.url}/ui/`);
      expect(await serious(page)).toEqual([]);
      const head = await keptHead(server);
      await explain(page, server.url, `#against=8&head=${head}&silenced=${head}`);
      await page.getByText(/→/).first().waitFor();
      await page.getByRole("button", { name: "Remove each head in turn" }).click();
      await page.locator("table.causal").waitFor();
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      expect(wide).toBeLessThanOrEqual(width);
      expect(await serious(page)).toEqual([]);
      const paper = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
      const [red] = paper.match(/\d+/g) ?? [];
      expect(Number(red) < 128).toBe(colorScheme === "dark");
      const motion = await page
        .locator(".bar")
        .first()
        .evaluate((bar) => getComputedStyle(bar).transitionDuration);
      expect(motion).toBe("0s");
    });
  });
}
