import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

// A browser that is installed: none is downloaded.
const BROWSERS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const browser = process.env.HEADWISE_BROWSER ?? BROWSERS.find((path) => existsSync(path)) ?? "";

export default defineConfig({
  testDir: "e2e",
  outputDir: "node_modules/.playwright",
  reporter: "list",
  workers: 1,
  timeout: 60_000, // for a fault that hangs; a busy machine may take long for a test
  expect: { timeout: 20_000 },
  use: {
    viewport: { width: 1280, height: 900 },
    launchOptions: {
      executablePath: browser,
      args: ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
    },
  },
});
