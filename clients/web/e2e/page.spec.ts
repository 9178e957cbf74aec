import { expect, type Page } from "@playwright/test";
import { headName } from "../src/arithmetic";
import { bmp, explain, keptHead, picture, test } from "./server";

const HEAD = "table.heads button";

/** The numbers of a column of the table of parts. */
async function column(page: Page, nth: number): Promise<number[]> {
  const texts = await page.locator(`.waterfall tbody tr td:nth-child(${nth})`).allInnerTexts();
  return texts.map((text) => Number(text.replace("−", "-").replace("%", "").trim()));
}

test("a picture that is chosen is explained, and the parts add up", async ({ page, server }) => {
  await explain(page, server.url);
  await expect(page.locator(".claim")).toContainText(/The model says .+ \(\d/);
  const total = Number((await page.locator(".waterfall tfoot td").last().innerText()).replace("−", "-"));
  const values = await column(page, 4);
  const rounding = 0.005 * values.length + 0.005;
  expect(Math.abs(values.reduce((all, value) => all + value, 0) - total)).toBeLessThanOrEqual(rounding);
  const sizes = values.slice(0, -1).map(Math.abs);
  expect(sizes).toEqual([...sizes].sort((one, other) => other - one));
  await expect(page.locator("footer")).toContainText(/onnxruntime, f32.*\de-\d+ at most/s);
});

test("the first paint of an explanation is measured from the reply", async ({ page, server }, info) => {
  await explain(page, server.url);
  const name = "headwise:explanation-painted";
  await expect.poll(() => page.evaluate((of) => performance.getEntriesByName(of).length, name)).toBe(1);
  const [took] = await page.evaluate((of) => performance.getEntriesByName(of).map((each) => each.duration), name);
  info.annotations.push({ type: "first paint after the reply", description: `${took?.toFixed(0)} ms` });
  console.log(`first paint after the reply: ${took?.toFixed(0)} ms`);
  expect(took).toBeGreaterThan(0);
});

test("a picture that is dropped or pasted is explained", async ({ page, server }) => {
  for (const kind of ["drop", "paste"]) {
    await page.goto(`${server.url}/ui/`);
    const bytes = [...picture.buffer];
    await page.evaluate(
      ([kind, bytes]) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([new Uint8Array(bytes)], "digit.bmp", { type: "image/bmp" }));
        const given = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(
          kind === "drop"
            ? new DragEvent("drop", { ...given, dataTransfer })
            : new ClipboardEvent("paste", { ...given, clipboardData: dataTransfer }),
        );
      },
      [kind, bytes] as const,
    );
    await expect(page.locator(".claim")).toBeVisible();
  }
});

test("a picture of the camera is explained", async ({ page, server }) => {
  await page.goto(`${server.url}/ui/`);
  await page.getByRole("button", { name: "Use camera" }).click();
  await page.getByRole("button", { name: "Take picture" }).click();
  await expect(page.locator(".claim")).toBeVisible();
  await expect(page.getByRole("dialog")).toHaveCount(0);
});

test("of several pictures each is explained when it is chosen", async ({ page, server }) => {
  const white = { ...picture, name: "white.bmp", buffer: bmp(8, () => 1) };
  await explain(page, server.url, "", [picture, white]);
  await expect(page.getByRole("img", { name: "white.bmp, as" })).toBeVisible();
  await page.getByRole("button", { name: "digit.bmp" }).click();
  await expect(page.getByRole("img", { name: "digit.bmp, as" })).toBeVisible();
  await expect(page.locator(".claim")).toBeVisible();
});

test("a photo of many pixels is sent as it is", async ({ page, server }) => {
  const large = { ...picture, buffer: bmp(600, (row, column) => ((row * column) % 97) / 97) };
  await explain(page, server.url, "", large);
  await expect(page.locator(".claim")).toBeVisible();
});

test("another label is explained, and two are compared", async ({ page, server }) => {
  await explain(page, server.url);
  await page.getByRole("button", { name: /\d %/, pressed: false }).first().click();
  await expect(page.locator(".claim")).toContainText(", not");
  const label = (await page.locator(".claim strong").innerText()).trim();
  const other = label === "4" ? "5" : "4";
  await page.getByLabel("Compare with").selectOption(other);
  await expect(page.getByRole("heading", { name: `Why “${label}” and not “${other}”` })).toBeVisible();
  await expect(page.locator(".waterfall tfoot")).toContainText("difference of the logits");
});

test("pointing at a head shows its map and its card, and a click keeps them", async ({ page, server }) => {
  const first = await keptHead(server);
  const name = headName(first);
  await explain(page, server.url);
  const caption = page.locator(".side figcaption");
  await expect(caption).toContainText("All parts together");
  await page.locator(`[data-head="${first}"]`).hover();
  await expect(caption).toContainText(name);
  await expect(caption).toContainText("not “the region that matters”");
  await expect(page.getByRole("img", { name: `Map of ${name}: strongest` })).toBeVisible();
  await expect(page.locator(".card")).toContainText(/Recognises over the data set.*n = \d+ images/s);
  const tile = page.locator(".card .tile").first();
  await expect(tile).toHaveAccessibleName(/^\d, \+\d/);
  await expect(tile).toHaveCSS("background-image", /^url\("blob:/);
  await page.locator("h1").hover();
  await expect(caption).toContainText("All parts together");
  await page.locator(`[data-head="${first}"]`).click();
  await page.locator("h1").hover();
  await expect(caption).toContainText(name);
});

test("everything is there for the keyboard alone", async ({ page, server }) => {
  await explain(page, server.url);
  await page.getByLabel("Compare with").focus();
  for (let pressed = 0; !(await page.evaluate((head) => document.activeElement?.matches(head), HEAD)); pressed++) {
    expect(pressed).toBeLessThan(40);
    await page.keyboard.press("Tab");
  }
  const before = await page.locator(`${HEAD}:focus`).getAttribute("data-head");
  await page.keyboard.press("ArrowRight");
  const after = page.locator(`${HEAD}:focus`);
  expect(await after.getAttribute("data-head")).not.toBe(before);
  const [encoder, head] = (await after.getAttribute("data-head"))?.split(".") ?? [];
  await expect(page.locator(".side figcaption")).toContainText(`encoder ${encoder} head ${head}`);
  const outline = await after.evaluate((cell) => getComputedStyle(cell).outlineStyle);
  expect(outline).toBe("solid");
  await page.keyboard.press("Enter");
  expect(new URL(page.url()).hash).toContain(`head=${encoder}.${head}`);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Space"); // the switch of what-if
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await expect(page.locator(".what-if")).toContainText(/Silent.*: encoder/);
});

test("heads are silenced by a click, the labels move, and all come back", async ({ page, server }) => {
  const first = await keptHead(server);
  await explain(page, server.url);
  await page.getByLabel("What if?").check();
  await page.locator(`[data-head="${first}"]`).click();
  await expect(page.locator(".what-if")).toContainText(/logit \S+ → \S+, probability .* → .*The model/s);
  await expect(page.locator(".labels .after").first()).toBeVisible();
  await page.getByRole("button", { name: "Restore all" }).click();
  await expect(page.locator(".labels .after")).toHaveCount(0);
});

test("the causal check states its cost, then sets effects beside contributions", async ({ page, server }) => {
  await explain(page, server.url);
  const heads = await page.locator(HEAD).count();
  await expect(page.getByText(`Costs ${heads} more inferences`)).toBeVisible();
  await page.getByRole("button", { name: "Remove each head in turn" }).click();
  await expect(
    page.getByText(/Rank correlation of direct contribution and effect over \d+ heads: [+−]?\d/),
  ).toBeVisible();
  await expect(page.locator("table.causal tbody tr")).toHaveCount(Math.min(heads, 8));
});

test("a link shows the same view of another picture, and what is not there is said", async ({ page, server }) => {
  const first = await keptHead(server);
  const name = headName(first);
  await explain(page, server.url, `#model=digits&label=7&against=1&head=${first}&silenced=${first},9.9`);
  await expect(page.getByRole("heading", { name: "Why “7” and not “1”" })).toBeVisible();
  await expect(page.locator(".side figcaption")).toContainText(name);
  await expect(page.locator(".what-if")).toContainText("Silent");
  await expect(page.getByText("what this model does not have: head 9.9")).toBeVisible();
});

test("behind another path the page still works, and asks no other server", async ({ page, server }) => {
  const asked = new Set<string>();
  page.on("request", (request) => asked.add(new URL(request.url()).origin));
  await page.route("http://proxy.test/behind/**", async (route) => {
    const there = route.request().url().replace("http://proxy.test/behind", server.url);
    const response = await route.fetch({ url: there });
    await route.fulfill({ response });
  });
  await explain(page, "http://proxy.test/behind");
  expect([...asked].filter((origin) => !origin.startsWith("blob") && origin !== "null")).toEqual(["http://proxy.test"]);
  expect(await page.context().cookies()).toEqual([]);
});
