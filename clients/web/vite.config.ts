import { defineConfig } from "vitest/config";

// Relative addresses, so that the page works behind any path; names without hashes, so that a change of the source
// changes as few committed files as may be; nothing inlined, which the page's content security policy would refuse.
export default defineConfig({
  base: "./",
  build: {
    outDir: process.env.HEADWISE_UI ?? "../../server/headwise_server/ui",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: false,
    rollupOptions: { output: { entryFileNames: "page.js", assetFileNames: "page[extname]" } },
  },
  server: { proxy: { "/v1": process.env.HEADWISE_SERVER ?? "http://127.0.0.1:8080" } },
  test: { include: ["tests/**/*.test.ts"] },
});
