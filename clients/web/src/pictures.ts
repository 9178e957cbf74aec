/** Pictures of the user's. They leave this page for its own server only, as the files they are. */

export interface Picture {
  id: number;
  name: string;
  file: Blob;
  /** Of the same file, for <img>. */
  url: string;
}

/** More is no picture; a server takes 32 MiB unless it is set otherwise, and says what it takes. */
const MOST_BYTES = 128 * 2 ** 20;

/** A file that is not sent; the message says why, and what to do. */
export class PictureError extends Error {}

let made = 0;

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

export function pictureOf(file: Blob, name: string): Picture {
  if (file.size > MOST_BYTES) {
    const found = `${name} is too large: expected at most ${mebibytes(MOST_BYTES)}, found ${mebibytes(file.size)}.`;
    throw new PictureError(`${found} Choose a smaller file.`);
  }
  made += 1;
  return { id: made, name, file, url: URL.createObjectURL(file) };
}

export function filesOf(transfer: DataTransfer | null): File[] {
  return transfer ? [...transfer.files] : [];
}
