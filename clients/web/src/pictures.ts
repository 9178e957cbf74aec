/** Pictures of the user's as the server takes them. They leave this page for its own server only. */

export interface Picture {
  id: number;
  name: string;
  /** A file in base64. */
  encoded: string;
  /** Of the same file, for <img>. */
  url: string;
  /** Said beside the picture, where what is sent is not what was given. */
  note: string;
}

/** JSON bodies may have 1 MiB, and base64 makes 4 bytes of 3. */
const SENT_BYTES = 700 * 1024;
/** More is no picture that a model of this size needs, and would stop the page. */
const READ_BYTES = 128 * 2 ** 20;
const FIRST_SIDE = 1024;
const SMALLER = 0.7;

/** A file that is not sent; the message says why, and what to do. */
export class PictureError extends Error {}

let made = 0;

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

export async function base64(content: Blob): Promise<string> {
  const bytes = new Uint8Array(await content.arrayBuffer());
  const chunk = 2 ** 15;
  let text = "";
  for (let first = 0; first < bytes.length; first += chunk) {
    text += String.fromCharCode(...bytes.subarray(first, first + chunk));
  }
  return btoa(text);
}

async function drawn(source: ImageBitmap, side: number): Promise<Blob> {
  const scale = Math.min(1, side / Math.max(source.width, source.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(source.width * scale));
  canvas.height = Math.max(1, Math.round(source.height * scale));
  const context = canvas.getContext("2d");
  if (!context) throw new PictureError("This browser cannot draw.");
  context.fillStyle = "white"; // under transparent pixels, as the server does
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const file = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/jpeg", 0.95));
  if (!file) throw new PictureError("This browser could not make the picture smaller.");
  return file;
}

async function smaller(file: Blob, name: string): Promise<Blob> {
  let source: ImageBitmap;
  try {
    source = await createImageBitmap(file);
  } catch {
    const size = `${name} has ${mebibytes(file.size)}; at most ${mebibytes(SENT_BYTES)} are sent as they are`;
    throw new PictureError(`${size}, and this browser cannot read it to make it smaller. Is it a picture?`);
  }
  try {
    for (let side = FIRST_SIDE; ; side = Math.floor(side * SMALLER)) {
      const file = await drawn(source, side);
      if (file.size <= SENT_BYTES) return file;
    }
  } finally {
    source.close();
  }
}

export async function readPicture(file: Blob, name: string): Promise<Picture> {
  if (file.size > READ_BYTES) {
    const found = `${name} is too large: expected at most ${mebibytes(READ_BYTES)}, found ${mebibytes(file.size)}.`;
    throw new PictureError(`${found} Choose a smaller file.`);
  }
  const sent = file.size > SENT_BYTES ? await smaller(file, name) : file;
  const note =
    sent === file ? "" : `The file has ${mebibytes(file.size)}: your browser made it smaller before sending it.`;
  made += 1;
  return { id: made, name, encoded: await base64(sent), url: URL.createObjectURL(sent), note };
}

export function filesOf(transfer: DataTransfer | null): File[] {
  return transfer ? [...transfer.files] : [];
}
