import { createHash } from "node:crypto";
import { truncate, writeFile } from "node:fs/promises";
import { expect, type Page } from "@playwright/test";
import { bmp, explain, picture, type Running, start, test } from "./server";

test("what is no picture is refused in the server's words", async ({ page, server }) => {
  await page.goto(`${server.url}/ui/`);
  const text = { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("not a picture") };
  await page.getByLabel("Choose pictures").setInputFiles(text);
  await expect(page.getByRole("alert")).toContainText(/does not take this.*expected an image, found/s);
  await page.getByLabel("Choose pictures").setInputFiles(picture);
  await expect(page.locator(".claim")).toBeVisible();
  await expect(page.getByRole("alert")).toHaveCount(0);
});

test("a file that is too large for any server is not even read", async ({ page, server }, info) => {
  await page.goto(`${server.url}/ui/`);
  const file = info.outputPath("large.png");
  await writeFile(file, "");
  await truncate(file, 129 * 2 ** 20);
  await page.getByLabel("Choose pictures").setInputFiles(file);
  await expect(page.getByRole("alert")).toContainText("too large: expected at most 128.0 MiB, found 129.0 MiB");
});

test.describe("a server with tokens and small limits", () => {
  test.describe.configure({ mode: "serial" });
  let strict: Running;

  test.beforeAll(async () => {
    const tokens = test.info().outputPath("tokens.toml");
    const hash = createHash("sha256").update("right").digest("hex");
    await writeFile(tokens, `[tokens.alice]\nsha256 = "${hash}"\nmodels = ["*"]\nactions = ["classify", "explain"]\n`);
    strict = await start("--tokens", tokens, "--max-message-mib", "1", "--decoding-mib", "32");
  });

  test.afterAll(() => strict.kill());

  async function enter(page: Page, token: string): Promise<void> {
    await page.getByLabel("Token").fill(token);
    await page.getByRole("button", { name: "Use token" }).click();
  }

  test("asks for a token, which is kept in memory alone", async ({ page }) => {
    await page.goto(`${strict.url}/ui/`);
    await expect(page.getByRole("alert")).toContainText("asks for a token");
    await enter(page, "wrong");
    await expect(page.getByRole("alert")).toContainText("asks for a token");
    await enter(page, "right");
    await expect(page.getByRole("alert")).toHaveCount(0);
    await page.getByLabel("Choose pictures").setInputFiles(picture);
    await expect(page.locator(".claim")).toBeVisible();
    expect(await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie])).toEqual([
      0,
      0,
      "",
    ]);
    expect(page.url()).not.toContain("right");
  });

  test("refuses what is too large in its own words, and once it is gone that is said", async ({ page }) => {
    await page.goto(`${strict.url}/ui/`);
    await enter(page, "right");
    const noise = { ...picture, buffer: bmp(700, (row, column) => ((row * column) % 97) / 97) };
    await page.getByText("Give it a picture").waitFor();
    await page.getByLabel("Choose pictures").setInputFiles(noise);
    await expect(page.getByRole("alert")).toContainText(/expected at most 1.0 MiB, found more/s);
    const content = await page.evaluate(() => {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 4000;
      return canvas.toDataURL("image/png").split(",")[1] ?? "";
    });
    const wide = { name: "wide.png", mimeType: "image/png", buffer: Buffer.from(content, "base64") };
    await page.getByLabel("Choose pictures").setInputFiles(wide);
    await expect(page.getByRole("alert")).toContainText(/takes at most 32 MiB to decode.*Send a smaller one/s);
    await strict.kill();
    await page.getByLabel("Choose pictures").setInputFiles(picture);
    await expect(page.getByRole("alert")).toContainText(/does not answer.*Is the server still running\?/s);
    await expect(page.getByRole("button", { name: "Try again" })).toBeVisible();
  });
});

test("a link to a model that is not served says so, and another can be chosen", async ({ page, server }) => {
  await page.goto(`${server.url}/ui/#model=birds`);
  await expect(page.getByRole("alert")).toContainText(/no such model.*birds/is);
  await page.getByLabel("Model").selectOption("digits");
  await expect(page.getByRole("alert")).toHaveCount(0);
  await explain(page, server.url, "#model=digits");
});
