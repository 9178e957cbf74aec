import { afterEach, describe, expect, it, vi } from "vitest";
import { modelOf, Server, ServerError } from "../src/api";

const SERVED = { name: "digits", version: "1", sha256: "ab", engine: "onnxruntime", precision: "f32" };
const BASE = new URL("http://localhost/behind/a/prefix/v1/");

function answering(status: number, body: string) {
  const asked = vi.fn(async (_address: URL, _options: RequestInit) => new Response(body, { status }));
  vi.stubGlobal("fetch", asked);
  return asked;
}

afterEach(() => {
  vi.unstubAllGlobals();
});

describe("a manifest", () => {
  it("means zero by what it leaves out", () => {
    const cards = [{ row: 0, expert_labels: ["3"], images: 9 }, { head: 1 }];
    const model = modelOf(SERVED, { labels: ["3"], input: { height: 8, width: 8 }, head_cards: cards });
    expect(model.cards).toEqual([
      { encoder: 0, head: 0, row: 0, expertLabels: ["3"], images: 9, pValue: null },
      { encoder: 0, head: 1, row: null, expertLabels: [], images: 0, pValue: null },
    ]);
    expect(model.tokenGrid).toBeNull();
    expect(model.samples).toBeNull();
  });

  it("says which pictures the heads have", () => {
    const head_samples = { tile_width: 8, tile_height: 6, columns: 4, images: 50, samples: [{ label: "3", row: 1 }] };
    const model = modelOf(SERVED, { labels: ["3"], input: { height: 8, width: 8 }, head_samples });
    expect(model.samples).toEqual({
      tileWidth: 8,
      tileHeight: 6,
      columns: 4,
      images: 50,
      samples: [{ row: 1, column: 0, label: "3", contribution: 0 }],
    });
  });
});

describe("the server", () => {
  it("is asked under the page's own path, with the token and without cookies", async () => {
    const asked = answering(200, JSON.stringify({ models: [SERVED, { ...SERVED, version: "2" }] }));
    const server = new Server(BASE);
    server.token = "secret";
    expect(await server.models()).toEqual(["digits"]);
    const [address, options] = asked.mock.calls[0] ?? [];
    expect(String(address)).toBe(`${BASE}models`);
    expect(options?.credentials).toBe("omit");
    expect(new Headers(options?.headers).get("authorization")).toBe("Bearer secret");
  });

  it("gives the heads' pictures of the very version that is shown", async () => {
    const asked = answering(200, "picture");
    const model = modelOf(SERVED, { labels: ["3"], input: { height: 8, width: 8 } });
    expect(await (await new Server(BASE).headSamples(model)).text()).toBe("picture");
    expect(String(asked.mock.calls[0]?.[0])).toBe(`${BASE}models/digits/versions/1/head-samples`);
  });

  it.each([
    [401, "token"],
    [403, "forbidden"],
    [404, "missing"],
    [400, "refused"],
    [413, "refused"],
    [429, "busy"],
    [503, "busy"],
    [500, "failed"],
  ])("says in its own words why it refuses: %i", async (status, trouble) => {
    answering(status, JSON.stringify({ code: 3, message: "expected this, found that." }));
    const refused = new Server(BASE).model("a/b");
    await expect(refused).rejects.toMatchObject({ trouble, message: "expected this, found that." });
  });

  it("may have something between that answers without words", async () => {
    answering(502, "<html>");
    await expect(new Server(BASE).models()).rejects.toMatchObject({
      trouble: "failed",
      message: expect.stringContaining("502"),
    });
  });

  it("that is gone is said to be", async () => {
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("refused")));
    const failure = await new Server(BASE).models().catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(ServerError);
    expect(failure).toMatchObject({ trouble: "unreachable" });
  });
});
