/** A real server for the tests, and pictures for it. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { test as base, type Page } from "@playwright/test";

/** A Python that has the server. */
const PYTHON = process.env.HEADWISE_PYTHON ?? "python3";
const REPOSITORY = process.env.HEADWISE_REPOSITORY ?? "models";
const START = "from headwise_server.cli import main; main()";
const ARGUMENTS = ["--engine", "onnxruntime", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--ui"];

export interface Running {
  url: string;
  /** End it at once, as a crash would. */
  kill: () => Promise<void>;
}

async function isReady(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/readyz`)).ok;
  } catch {
    return false;
  }
}

async function listening(child: ChildProcess): Promise<string> {
  if (!child.stdout) throw new Error("the server has no output");
  for await (const line of createInterface({ input: child.stdout })) {
    const address = /^listening on (http\S+)/.exec(line)?.[1];
    if (address) return address;
  }
  throw new Error("the server did not start");
}

export async function start(...more: string[]): Promise<Running> {
  const command = ["-c", START, "--repository", REPOSITORY, ...ARGUMENTS, ...more];
  const child = spawn(PYTHON, command, { stdio: ["ignore", "pipe", "ignore"] });
  const ended = once(child, "exit");
  const kill = async () => {
    child.kill("SIGKILL");
    await ended;
  };
  try {
    const url = await listening(child);
    while (!(await isReady(url))) await new Promise((go) => setTimeout(go, 50));
    return { url, kill };
  } catch (error) {
    await kill();
    throw error;
  }
}

/** The first head that the model `digits` keeps, as the page names it. */
export async function keptHead(server: Running): Promise<string> {
  const { manifest } = (await (await fetch(`${server.url}/v1/models/digits`)).json()) as {
    manifest: { head_cards: { encoder?: number; head?: number; row?: number }[] };
  };
  const card = manifest.head_cards.find(({ row }) => row === 0);
  if (!card) throw new Error("the model keeps no head");
  return `${card.encoder ?? 0}.${card.head ?? 0}`;
}

/** Tests with a server that all of them leave running. */
export const test = base.extend<object, { server: Running }>({
  server: [
    // biome-ignore lint/correctness/noEmptyPattern: Playwright reads the pattern
    async ({}, use) => {
      const server = await start();
      await use(server);
      await server.kill();
    },
    { scope: "worker" },
  ],
});

/** An 8-bit grey picture as a BMP file, from the brightness (0 to 1) at each row and column. */
export function bmp(side: number, brightness: (row: number, column: number) => number): Buffer {
  const width = Math.ceil((3 * side) / 4) * 4;
  const content = Buffer.alloc(54 + width * side);
  content.write("BM");
  content.writeUInt32LE(content.length, 2);
  for (const [value, place] of [
    [54, 10],
    [40, 14],
    [side, 18],
    [side, 22],
  ] as const)
    content.writeUInt32LE(value, place);
  content.writeUInt16LE(1, 26);
  content.writeUInt16LE(24, 28);
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const start = 54 + (side - 1 - row) * width + 3 * column;
      content.fill(Math.round(255 * brightness(row, column)), start, start + 3);
    }
  }
  return content;
}

const DIGIT = ["00011000", "00111100", "01100110", "00001100", "00111000", "01100110", "00111100", "00011000"];

export const picture = {
  name: "digit.bmp",
  mimeType: "image/bmp",
  buffer: bmp(8, (row, column) => Number(DIGIT[row]?.[column] ?? 0)),
};

/** Open the page, give it a picture and wait for what is said of it. */
export async function explain(page: Page, url: string, fragment = "", files: Files = picture): Promise<void> {
  await page.goto(`${url}/ui/${fragment}`);
  await page.getByLabel("Choose pictures").setInputFiles(files);
  await page
    .getByText(/The model says/)
    .first()
    .waitFor();
}

type Files = Parameters<ReturnType<Page["getByLabel"]>["setInputFiles"]>[0];
